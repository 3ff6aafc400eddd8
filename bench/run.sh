#!/usr/bin/env bash
# bench/run.sh - every figure of README.md, "Measured", in one go; tables on standard output, each after its command.
#   bench/run.sh            one stamp, twenty stamps, the gateway beside its peers, the vault with and without audit, DonatelloAI
#   bench/run.sh --clone    also a new clone: build, `up`, first page (builds everything anew)
# ROUNDS (5) and SECONDS_EACH (5) are those of each comparison. Programs that are built already are taken from STAMP,
# GATEWAY and VAULT_LOAD (`donatello` from beside STAMP), the engines from ENGINES; what is not named is built. A part that
# fails does not stop the others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 3
rounds=${ROUNDS:-5}
each=${SECONDS_EACH:-5}
bad=()

# part NAME COMMAND...
part() {
  local name=$1
  shift
  printf '\n## %s\n\n    %s\n\nload average before: %s\n\n' "$name" "$*" "$(cut -d' ' -f1-3 /proc/loadavg)"
  "$@" || bad+=("$name")
}

case "${1:-}" in
  "" | --clone) ;;
  *)
    printf 'error: bench/run.sh does not know %q\nhint: bench/run.sh [--clone]\n' "$1" >&2
    exit 2
    ;;
esac

if [ -z "${STAMP:-}" ]; then
  # Whatever `up` needs is brought by stampw; `help` builds and starts nothing.
  ./stampw help >/dev/null || exit 3
  cargo build --quiet -p donatello || exit 3
  STAMP=target/debug/stamp
fi
if [ -z "${GATEWAY:-}" ]; then
  cargo build --quiet --release -p gateway --example alone || exit 3
  GATEWAY=target/release/examples/alone
fi
which=(--stamp "$STAMP")
[ -z "${ENGINES:-}" ] || which+=(--engines "$ENGINES")
stamp=(bench/stamp/run.py "${which[@]}")

date -u '+%F %R UTC'
part "one stamp" "${stamp[@]}" --rounds "$rounds"
part "twenty stamps, all at once" "${stamp[@]}" --twenty
part "twenty stamps, one after another" "${stamp[@]}" --twenty --at-once 1
part "gateway, CPU a request" bench/gateway/run.py --gateway "$GATEWAY" --rounds "$rounds" --seconds "$each"
part "vault, audited reads" bench/vault/run.sh "$rounds" "$each"
part "DonatelloAI, 11.6 images a second" bench/donatello/run.py "${which[@]}"
if [ "${1:-}" = --clone ]; then part "clean clone to first page" bench/stamp/run.py --clone; fi

if [ ${#bad[@]} -gt 0 ]; then
  printf '\nfailed, skipped or missed its aim: %s\n' "$(IFS=';' && echo "${bad[*]}")"
  exit 1
fi
