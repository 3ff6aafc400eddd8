#!/usr/bin/env bash
# curl with nothing but the CA: the edge answers by HTTPS, sends HTTP there, and is not believed without the CA.
set -uo pipefail
if [[ -z ${PUBLIC_URL:-} || -z ${SSL_CERT_FILE:-} ]]; then
    echo "not set: PUBLIC_URL, SSL_CERT_FILE"
    exit 77
fi
url=${PUBLIC_URL%/}/
head=$(curl --silent --show-error --max-time 20 --cacert "$SSL_CERT_FILE" --output /dev/null --dump-header - "$url" 2>&1) ||
    { echo "${head%%$'\n'*}"; exit 1; }
status=$(sed -n '1s/^HTTP[^ ]* \([0-9]*\).*/\1/p' <<<"$head")
[[ $status =~ ^(200|30[12378]|401)$ ]] || { echo "$url answers $status"; exit 1; }
grep -qi '^strict-transport-security:' <<<"$head" || { echo "no Strict-Transport-Security"; exit 1; }
grep -qi '^x-content-type-options: *nosniff' <<<"$head" || { echo "no X-Content-Type-Options: nosniff"; exit 1; }
if curl --silent --max-time 20 --cacert /dev/null --output /dev/null "$url"; then echo "believed without the CA"; exit 1; fi
if curl --silent --max-time 20 --cacert "$SSL_CERT_FILE" --tls-max 1.1 --output /dev/null "$url"; then
    echo "TLS 1.1 was accepted"
    exit 1
fi
version=$(curl --silent --max-time 20 --cacert "$SSL_CERT_FILE" --output /dev/null --write-out '%{http_version}' "$url")
echo "$status by HTTP/$version, HSTS, no TLS 1.1, not believed without the CA"
