#!/usr/bin/env bash
# skopeo, Debian's own, as a person on this machine: logs in with the vault's password, pushes an image that this script made, copies
# it between repositories and formats, reads it back whole; without or with another password it gets nothing.
#
#   skopeo.sh HOST[:PORT] CA.pem USER <PASSWORD    the password of USER comes on standard input
#
# The last line says what was done. 77: skopeo is not there.
set -euo pipefail
host=$1 ca=$2 user=$3
command -v skopeo >/dev/null || { echo "SKIP skopeo is not installed (apt-get install --no-install-recommends skopeo)"; exit 77; }
IFS= read -r password || [[ -n $password ]]
work=$(mktemp -d "${TMPDIR:-/tmp}/skopeo.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/certs" "$work/rootfs/app"
cp "$ca" "$work/certs/ca.crt"
cd "$work"
auth=(--authfile "$work/auth.json")
tag=judge-$(date -u +%Y%m%d%H%M%S)
fail() { echo "FAILED $1"; exit 1; }
# A policy of this machine is not what is judged.
printf '{"default":[{"type":"insecureAcceptAnything"}]}' >policy.json
skopeo=(skopeo --policy "$work/policy.json")

# An OCI layout of one image with one layer, from nothing but tar and sha256sum.
blob() { local sum; sum=$(sha256sum <"$1" | cut -d' ' -f1); cp "$1" "image/blobs/sha256/$sum"; echo "$sum"; }
mkdir -p image/blobs/sha256
head -c 3000000 /dev/urandom >rootfs/app/data
echo "made at $tag" >rootfs/app/note
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf layer.tar -C rootfs .
diff=$(sha256sum <layer.tar | cut -d' ' -f1)
gzip -n layer.tar
layer=$(blob layer.tar.gz)
printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/app/note"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$diff" >config
config=$(blob config)
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%d}]}' \
    "$config" "$(stat -c %s config)" "$layer" "$(stat -c %s layer.tar.gz)" >manifest
manifest=$(blob manifest)
printf '{"imageLayoutVersion":"1.0.0"}' >image/oci-layout
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d,"annotations":{"org.opencontainers.image.ref.name":"%s"}}]}' \
    "$manifest" "$(stat -c %s manifest)" "$tag" >image/index.json

from=docker://$host/time-tracker:$tag
if "${skopeo[@]}" inspect --cert-dir certs --no-creds "$from" >said 2>&1; then fail "without credentials something is told"; fi
if printf %s "not-$password" | skopeo login "${auth[@]}" --cert-dir certs --username "$user" --password-stdin "$host" >said 2>&1; then
    fail "another password logs in"
fi
printf %s "$password" | skopeo login "${auth[@]}" --cert-dir certs --username "$user" --password-stdin "$host" >said 2>&1 ||
    fail "login: $(tail -n 1 said)"
"${skopeo[@]}" copy "${auth[@]}" --dest-cert-dir certs "oci:image:$tag" "$from" >said 2>&1 || fail "push: $(tail -n 1 said)"
digest=$("${skopeo[@]}" inspect "${auth[@]}" --cert-dir certs --format '{{.Digest}}' "$from" 2>said) || fail "inspect: $(tail -n 1 said)"
[[ $digest == "sha256:$manifest" ]] || fail "pushed sha256:$manifest, told $digest"
"${skopeo[@]}" copy "${auth[@]}" --src-cert-dir certs "$from" oci:back:x >said 2>&1 || fail "pull: $(tail -n 1 said)"
cmp -s "image/blobs/sha256/$layer" "back/blobs/sha256/$layer" || fail "the layer comes back as another"
"${skopeo[@]}" copy "${auth[@]}" --src-cert-dir certs --dest-cert-dir certs "$from" "docker://$host/judge/copy:$tag" >said 2>&1 ||
    fail "copy to another repository: $(tail -n 1 said)"
"${skopeo[@]}" copy "${auth[@]}" --src-cert-dir certs --dest-cert-dir certs --format v2s2 "$from" "docker://$host/judge/docker:$tag" >said 2>&1 ||
    fail "copy as a Docker manifest: $(tail -n 1 said)"
kind=$("${skopeo[@]}" inspect "${auth[@]}" --cert-dir certs --raw "docker://$host/judge/docker:$tag" 2>said | grep -o 'docker.distribution.manifest.v2+json' | head -n 1)
[[ -n $kind ]] || fail "the Docker manifest is told as another"
"${skopeo[@]}" list-tags "${auth[@]}" --cert-dir certs "docker://$host/judge/copy" 2>said | grep -q "$tag" || fail "list-tags: $(tail -n 1 said)"
if "${skopeo[@]}" delete "${auth[@]}" --cert-dir certs "docker://$host/judge/copy:$tag" >said 2>&1; then fail "it deletes without the role"; fi
# A release stays: the same version with another image is refused.
version=v1.0.$(date +%s)
"${skopeo[@]}" copy "${auth[@]}" --dest-cert-dir certs "oci:image:$tag" "docker://$host/judge/copy:$version" >said 2>&1 || fail "release: $(tail -n 1 said)"
if "${skopeo[@]}" copy "${auth[@]}" --src-cert-dir certs --dest-cert-dir certs "docker://$host/judge/docker:$tag" "docker://$host/judge/copy:$version" >said 2>&1; then
    fail "$version is pushed again with another image"
fi
grep -q "stays so" said || fail "the refusal of $version says: $(tail -n 1 said)"
echo "$(skopeo --version | cut -d' ' -f3): pushed, pulled, copied (OCI and Docker manifests), tags listed, $version stays; nothing without the password"
