#!/usr/bin/env bash
# Brings the application's packages (requirements.txt, all pinned) into packages/, where app.py finds them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
target=packages
if [[ -f packages/requirements.done ]] && cmp -s requirements.txt packages/requirements.done; then
    exit 0
fi
rm -rf packages
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --python-version "$(/usr/bin/env PATH=/usr/local/bin:/usr/bin:/bin python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
    --target "$target" --requirement requirements.txt
cp requirements.txt packages/requirements.done
