#!/usr/bin/env bash
# Runs a judge with more variables than its place gives it: NAME=VALUE lines on stdin, so that no password is in argv.
set -euo pipefail
while IFS= read -r line; do export "${line?}"; done
exec "$@" </dev/null
