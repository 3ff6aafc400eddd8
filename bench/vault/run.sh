#!/bin/sh
# What durable auditing costs a secret read. Arguments: pairs (5), seconds a round (5), connections (64).
# Prints the command it runs. PROFILE=release measures what people install; the default is the profile of `up` and `test`.
# VAULT_LOAD names the program where it is built already.
set -eu
cd "$(dirname "$0")/../.."
profile=${PROFILE:-dev}
set -x
if [ -n "${VAULT_LOAD:-}" ]; then exec "$VAULT_LOAD" "${1:-5}" "${2:-5}" "${3:-64}"; fi
cargo build --quiet --profile "$profile" -p vault --example vault_load
exec cargo run --quiet --profile "$profile" -p vault --example vault_load -- "${1:-5}" "${2:-5}" "${3:-64}"
