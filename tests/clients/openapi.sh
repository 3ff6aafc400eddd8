#!/usr/bin/env bash
# schemathesis on the application's OpenAPI document, as somebody who has signed in: what it answers must be what it says.
set -uo pipefail
: "${JUDGES:=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}"
if [[ -z ${PUBLIC_URL:-} || -z ${SSL_CERT_FILE:-} ]]; then
    echo "not set: PUBLIC_URL, SSL_CERT_FILE"
    exit 77
fi
schema=${PUBLIC_URL%/}/openapi.json
status=$(curl --silent --max-time 20 --cacert "$SSL_CERT_FILE" --output /dev/null --write-out '%{http_code}' "$schema")
[[ $status == 404 ]] && { echo "there is no /openapi.json"; exit 77; }
command -v schemathesis >/dev/null || { echo "schemathesis is not installed"; exit 77; }
token=$(node "$JUDGES/token.mjs")
case $? in
    0) ;;
    77) echo "$token"; exit 77 ;;
    *) echo "nobody could sign in: $token"; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# The token goes by the environment, not by the command line.
# shellcheck disable=SC2016 # schemathesis fills it in
printf 'headers = { Authorization = "Bearer ${JUDGE_TOKEN}" }\n' >schemathesis.toml
export JUDGE_TOKEN=$token
# A schema cannot say all rules (a comment when reopening), so a valid document may be refused; the reverse may not.
schemathesis run "$schema" --exclude-checks positive_data_acceptance --tls-verify "$SSL_CERT_FILE" --max-examples "${JUDGE_EXAMPLES:-25}" --seed 1 --no-color \
    --workers 1 >"$work/report" 2>&1
code=$?
[[ -n ${JUDGE_REPORT:-} ]] && cp "$work/report" "$JUDGE_REPORT"
# Refused everywhere is nothing proven.
if refused=$(grep -o 'Authentication failed: .*' "$work/report"); then echo "$refused"; exit 1; fi
if [[ $code -ne 0 ]]; then
    found=$(sed -n '/^__*  *[A-Z]* \/.* __*$/{s/_//g;s/^ *//;s/ *$//;p}; /^- ST[0-9]/{s/^- //;p}' "$work/report" | sort -u | tr '\n' ';')
    echo "${found:-$(grep -v '^ *$' "$work/report" | tail -n 1)}"
    exit 1
fi
grep -E 'generated' "$work/report" | tail -n 1 | sed 's/^ *//'
