#!/usr/bin/env bash
# Makes .venv at the root with every room installed, by plain pip. Does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs_as() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
        if runs_as "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "forklight needs Python 3.11 or 3.12; found: $("${PYTHON:-python3}" --version 2>&1 || true)." \
        "Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2
    return 2
}

pins=infra/python/constraints.txt
if [ ! -x .venv/bin/python ] || ! runs_as .venv/bin/python; then
    python=$(find_python)
    echo "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

stamp=.venv/.forklight-setup
wanted=$(cat infra/python/*.txt infra/python/setup.sh kernels/pyproject.toml libs/*/pyproject.toml \
    services/*/pyproject.toml | cksum)
if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

echo "installing every room and the tools (some minutes the first time, torch is large)"
rm -f $stamp
pip=(.venv/bin/python -m pip install -qq --disable-pip-version-check -c "$pins")
"${pip[@]}" hatchling editables
"${pip[@]}" --no-build-isolation -r infra/python/dev.txt
"${pip[@]}" deepspeed  # comes as source, and is built by itself
echo "$wanted" > $stamp
