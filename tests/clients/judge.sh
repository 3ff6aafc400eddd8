#!/usr/bin/env bash
# Outside judges, from nothing to nothing: tests/clients' own system and Time Tracker come up in a folder that is thrown
# away, run.sh judges both, and both are destroyed, whatever happened.
#
#   judge.sh        needs target/debug/stamp and time-tracker; PostgreSQL in STAMP_ENGINES
#   judge.sh --long judges with the clients that take minutes to build, and only with them
#
# Without Python's pip, npm or their registries it says SKIP and why; STAMP_REQUIRE=clients makes that a failure.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
stamp=$PWD/target/debug/stamp
engines=${STAMP_ENGINES:-}
begun=$SECONDS

stop() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 2
}
skip() {
    echo "outside judges: SKIP $1"
    if [[ ${STAMP_REQUIRE:-} == *clients* ]]; then exit 1; fi
    exit 0
}

[[ -x $stamp && -x target/debug/time-tracker ]] || stop "stamp or time-tracker is not built" "cargo build --workspace --bins"
compgen -G "$engines/postgresql-*/bin/postgres" >/dev/null || stop "STAMP_ENGINES has no PostgreSQL" "./stampw up brings it to STAMP_HOME/engines"
for needed in python3 node npm curl; do
    command -v "$needed" >/dev/null || skip "$needed is not installed"
done
python3 -m pip --version >/dev/null 2>&1 || skip "python3 has no pip"
python3 -c 'import venv' 2>/dev/null || skip "python3 has no venv"

home=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/judges.XXXXXX")")
# Each service has a user of its own, who must be able to pass through.
chmod 0755 "$home"
export STAMP_HOME=$home

# The clients are kept for the next time. This is also how it is known whether the registries can be reached.
if ! timeout 240 "$here/run.sh" --prepare >"$home/brought" 2>&1; then
    why=$(grep -v '^ *$' "$home/brought" | tail -n 1 || true)
    rm -rf "$home"
    skip "the clients could not be brought from PyPI and npm: ${why:-no answer in 240 s}"
fi

# Ends the supervisor that was started for this home, by its whole command line, and removes its sockets' folder.
# shellcheck disable=SC2317 # called by traps
end_supervisor() {
    local process words sockets
    for process in /proc/[0-9]*; do
        mapfile -d '' -t words 2>/dev/null <"$process/cmdline" || continue
        [[ ${words[*]:1} == "serve supervisor --home $home" ]] || continue
        kill "${process#/proc/}" || continue
        for _ in {1..100}; do
            [[ -d $process ]] || break
            sleep 0.1
        done
    done
    sockets=$(printf '%s' "$home" | sha256sum | cut -c1-8)
    if [[ $(id -u) == 0 ]]; then rm -rf "/run/stampwright-$sockets"; else rm -rf "/tmp/stampwright-$(id -u)-$sockets"; fi
}

# shellcheck disable=SC2317 # called by traps
destroy() {
    local code=$? system
    trap - EXIT INT TERM
    for system in clients time-tracker; do
        if [[ -d $home/stamps/$system.dev ]] && ! "$stamp" destroy "$system" --yes >"$home/destroyed" 2>&1; then
            echo "outside judges: $system could not be destroyed; $home stays" >&2
            cat "$home/destroyed" >&2
            exit 1
        fi
    done
    end_supervisor
    rm -rf "$home"
    echo "outside judges: $((SECONDS - begun)) s" >&2
    exit "$code"
}
trap destroy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ln -s "$(realpath "$engines")" "$home/engines"

JUDGE_EMAIL=judge@example.com
JUDGE_PASSWORD=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
export JUDGE_EMAIL JUDGE_PASSWORD JUDGE_LINK JUDGE_EXAMPLES=${JUDGE_EXAMPLES:-8} JUDGE_SECONDS=100

# judged SYSTEM SERVICE FOLDER GROUPS JUDGE...: brings a system up, invites somebody, has it judged.
judged() {
    local system=$1 service=$2 folder=$3 groups=() group
    for group in $4; do groups+=(--group "$group"); done
    shift 4
    # What is printed holds a link that signs somebody in: shown only if it failed.
    if ! "$stamp" up "$folder" >"$home/up" 2>&1; then
        cat "$home/up" >&2
        return 1
    fi
    JUDGE_LINK=$("$stamp" user add "$system" "$JUDGE_EMAIL" "${groups[@]}" --json |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["link"])')
    STAMP_EXEC="$stamp exec $system $service --" "$here/run.sh" "$@" | sed "s/^/$system, /"
}

failed=0
if [[ ${1:-} == --long ]]; then
    judged clients judge tests/clients "" keyvault-rust || failed=1
    exit "$failed"
fi
judged clients judge tests/clients "" keyvault-python keyvault-node blob-python blob-node otlp-python otlp-node oidc psql curl tls || failed=1
JUDGE_REDIRECT=/signin-oidc judged time-tracker web systems/time-tracker "user manager admin" oidc psql curl openapi || failed=1

# The registry is reached from outside, by a person with the vault's password.
registry=$("$stamp" open time-tracker registry.main 2>/dev/null)
code=0
said=$("$stamp" secret show time-tracker ACR--Password 2>/dev/null |
    "$here/skopeo.sh" "${registry#https://}" "$home/stamps/time-tracker.dev/public/ca.pem" main 2>&1 | tail -n 1) || code=$?
case $code in
    0) echo "time-tracker, skopeo: ok ($said)" ;;
    77)
        echo "time-tracker, skopeo: $said"
        if [[ ${STAMP_REQUIRE:-} == *clients* ]]; then failed=1; fi
        ;;
    *)
        echo "time-tracker, skopeo: $said"
        failed=1
        ;;
esac
exit "$failed"
