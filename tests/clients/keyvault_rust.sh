#!/usr/bin/env bash
# Microsoft's Rust Key Vault crate: the life of a secret by managed identity, then the tests that the crate ships, unchanged,
# in their own live mode.
set -euo pipefail
built=$JUDGES/rust/built
said=$("$built/keyvault-judge") || { echo "$said"; exit 1; }
# The tests sign in with `az`; ours asks the identity endpoint.
export PATH=$JUDGES:$PATH AZURE_TEST_MODE=live AZURE_KEYVAULT_URL=$KEY_VAULT_URL
export CARGO_PKG_NAME=azure_security_keyvault_secrets
counts=
for shipped in "$built"/shipped-*; do
    name=${shipped##*/shipped-}
    if ! "$shipped" --test-threads=1 >"$HOME/$name.log" 2>&1; then
        sed -n '/^failures:/,$p' "$HOME/$name.log" >&2
        echo "its shipped tests $name: $(grep '^test result' "$HOME/$name.log" || tail -n 1 "$HOME/$name.log")"
        exit 1
    fi
    grep '^test .* \.\.\.' "$HOME/$name.log" >&2 || true
    counts+="; shipped $name: $(sed -n 's/^test result: ok\. \([0-9]* passed\).*/\1/p' "$HOME/$name.log")"
done
echo "$said$counts"
