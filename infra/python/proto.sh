#!/usr/bin/env bash
# Generates libs/core/forklight from proto/; with --check only says whether the committed code is what proto/ gives.
set -euo pipefail
cd "$(dirname "$0")/../.."

stamp=.venv-proto/.forklight-proto
wanted=$(cat infra/python/proto.txt | cksum)
if [ "$(cat $stamp 2>/dev/null)" != "$wanted" ]; then
    make --no-print-directory setup
    .venv/bin/python -m venv --clear .venv-proto
    .venv-proto/bin/python -m pip install -qq --disable-pip-version-check -r infra/python/proto.txt
    echo "$wanted" > $stamp
fi

generate() {
    .venv-proto/bin/python -W ignore -m grpc_tools.protoc -Iproto --python_out="$1" --pyi_out="$1" --grpc_python_out="$1" \
        --plugin=protoc-gen-mypy_grpc=.venv-proto/bin/protoc-gen-mypy_grpc --mypy_grpc_out="$1" proto/forklight/v1/*.proto
}

if [ "${1:-}" != --check ]; then
    generate libs/core
    exit
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
generate "$fresh"
if ! diff -r -x __init__.py -x __pycache__ "$fresh/forklight" libs/core/forklight; then
    echo "libs/core/forklight is not what proto/ gives: run \`make proto\` and commit" >&2
    exit 1
fi
echo "generated code matches proto/"
