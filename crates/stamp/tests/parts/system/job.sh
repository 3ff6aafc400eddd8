# Writes its word into the share, and ends once the share holds `go`.
set -eu
test "${#WORD}" -ge 12
echo written >>"$MOUNT_DUMPS/dump"
until [ -e "$MOUNT_DUMPS/go" ]; do sleep 0.1; done
echo ended >>"$MOUNT_DUMPS/dump"
