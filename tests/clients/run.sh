#!/usr/bin/env bash
# Real clients judge a running stamp. Brings them once (pinned), then runs one after another.
#
#   run.sh [JUDGE...]      all judges but keyvault-rust, which takes minutes to build, or those named
#   run.sh --prepare       brings the clients only
#   run.sh --prepare-rust  brings and builds those of keyvault-rust
#
# STAMP_EXEC      how a command is run in a service's place, such as "stamp exec clients judge --"; empty: run as it is
# STAMP_CLIENTS   where the clients are kept; the service's user must be able to read it
# STAMP_REQUIRE   "clients": what would be skipped fails
# JUDGE_EMAIL, JUDGE_PASSWORD, JUDGE_LINK   somebody who signs in; the link of a first sign-in sets the password
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $(id -u) == 0 ]]; then kept=/var/cache/stampwright-clients; else kept=${XDG_CACHE_HOME:-$HOME/.cache}/stampwright-clients; fi
: "${STAMP_CLIENTS:=$kept}"
umask 022
read -ra place <<<"${STAMP_EXEC:-}"

# Nothing is brought twice: the pinned lists are the key.
prepare() {
    mkdir -p "$STAMP_CLIENTS"
    if ! cmp -s "$here/requirements.txt" "$STAMP_CLIENTS/requirements.done"; then
        rm -rf "$STAMP_CLIENTS/venv"
        # The machine's own Python, which every user can run; pip may be another one's.
        local base=/usr/bin/python3
        [[ -x $base ]] || base=python3
        "$base" -m venv --without-pip "$STAMP_CLIENTS/venv"
        python3 -m pip --python "$STAMP_CLIENTS/venv/bin/python" install --quiet --disable-pip-version-check \
            --requirement "$here/requirements.txt"
        cp "$here/requirements.txt" "$STAMP_CLIENTS/requirements.done"
    fi
    if ! cmp -s "$here/package-lock.json" "$STAMP_CLIENTS/package-lock.done"; then
        cp "$here/package.json" "$here/package-lock.json" "$STAMP_CLIENTS/"
        (cd "$STAMP_CLIENTS" && npm ci --silent --no-audit --no-fund)
        cp "$here/package-lock.json" "$STAMP_CLIENTS/package-lock.done"
    fi
    cp "$here"/*.py "$here"/*.mjs "$here"/*.sh "$here/az" "$STAMP_CLIENTS/"
}

# Microsoft's Rust crate: a judge that uses it, and the tests that its package ships. Those want to lie in a repository, below
# a folder `sdk`; the package is the one that cargo brought for the judge, by its checksum.
prepare_rust() {
    local at=$STAMP_CLIENTS/rust package log program
    if diff -rq "$here/rust" "$at/of" >/dev/null 2>&1; then return; fi
    rm -rf "$at"
    mkdir -p "$at/.git" "$at/sdk/keyvault" "$at/built"
    cp -r "$here/rust" "$at/judge"
    export CARGO_TARGET_DIR=$at/target
    log=$at/build.log
    cargo build --quiet --locked --manifest-path "$at/judge/Cargo.toml" 2>"$log" || { cat "$log"; return 1; }
    cp "$CARGO_TARGET_DIR/debug/keyvault-judge" "$at/built/"
    package=$(cargo metadata --locked --format-version 1 --manifest-path "$at/judge/Cargo.toml" |
        python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "azure_security_keyvault_secrets"))')
    cp -r "${package%/*}" "$at/sdk/keyvault/azure_security_keyvault_secrets"
    cp -r "$here/rust/shipped/retry" "$at/sdk/keyvault/retry"
    cat "$here/rust/shipped/dev-dependencies.toml" >>"$at/sdk/keyvault/azure_security_keyvault_secrets/Cargo.toml"
    cp "$here/rust/shipped/Cargo.lock" "$at/sdk/keyvault/azure_security_keyvault_secrets/Cargo.lock"
    for program in secret_client readme; do
        # Their harness reads the mode when it is compiled.
        AZURE_TEST_MODE=live cargo test --quiet --locked --no-run --message-format json --test "$program" \
            --manifest-path "$at/sdk/keyvault/azure_security_keyvault_secrets/Cargo.toml" 2>"$log" |
            python3 -c 'import json, sys; print(next(m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")))' >"$at/executable" ||
            { cat "$log"; return 1; }
        cp "$(<"$at/executable")" "$at/built/shipped-$program"
    done
    rm -rf "$CARGO_TARGET_DIR"
    cp -r "$here/rust" "$at/of"
}

judges=(
    keyvault-python "python -W ignore keyvault_python.py"
    keyvault-node   "node keyvault_node.mjs"
    blob-python     "python -W ignore blob_python.py"
    blob-node       "node blob_node.mjs"
    otlp-python     "python -W ignore otlp_python.py"
    otlp-node       "node otlp_node.mjs"
    oidc            "node oidc_node.mjs"
    psql            "bash psql.sh"
    curl            "bash curl.sh"
    tls             "python -W ignore tls_sslyze.py"
    openapi         "bash openapi.sh"
    witness         "python witness.py"
    keyvault-rust   "bash keyvault_rust.sh"
)

prepare >&2
if [[ ${1:-} == --prepare-rust ]]; then
    prepare_rust >&2
    exit 0
fi
# In a process of its own, so that its first failure ends it.
if [[ " $* " == *" keyvault-rust "* ]] && ! bash "$here/run.sh" --prepare-rust; then
    echo "keyvault-rust: SKIP its crates could not be brought and built"
    if [[ ${STAMP_REQUIRE:-} == *clients* ]]; then exit 1; fi
    exit 0
fi
if [[ ${1:-} == --prepare ]]; then exit 0; fi
failed=0
for ((i = 0; i < ${#judges[@]}; i += 2)); do
    name=${judges[i]}
    if [[ $# -gt 0 && " $* " != *" $name "* ]]; then continue; fi
    if [[ $# == 0 && $name == keyvault-rust ]]; then continue; fi
    read -ra command <<<"${judges[i + 1]}"
    # The variables of the caller are set again: a service's place starts with an environment of its own.
    own=("PATH=$STAMP_CLIENTS/venv/bin:/usr/local/bin:/usr/bin:/bin" "JUDGES=$STAMP_CLIENTS")
    for variable in JUDGE_EMAIL JUDGE_PASSWORD JUDGE_LINK JUDGE_REDIRECT JUDGE_EXAMPLES JUDGE_REPORT; do
        if [[ -n ${!variable:-} ]]; then own+=("$variable=${!variable}"); fi
    done
    code=0
    # The judge's own line is the last of stdout; what its libraries say on stderr is shown if it failed.
    complaints=$(mktemp)
    said=$(cd "$STAMP_CLIENTS" && printf '%s\n' "${own[@]}" |
        timeout "${JUDGE_SECONDS:-300}" "${place[@]}" bash "$STAMP_CLIENTS/in_place.sh" "${command[@]}" 2>"$complaints") || code=$?
    said=$(tail -n 1 <<<"$said")
    case $code in
        0) echo "$name: ok ($said)" ;;
        77)
            echo "$name: SKIP $said"
            if [[ ${STAMP_REQUIRE:-} == *clients* ]]; then failed=1; fi
            ;;
        *)
            echo "$name: FAILED $said"
            tail -n 5 "$complaints" >&2
            failed=1
            ;;
    esac
    rm -f "$complaints"
done
exit "$failed"
