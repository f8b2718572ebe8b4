#!/bin/sh
# Inside a build stage, from the folder with the copied rooms:
#   install.sh packages ROOM...   what they need from elsewhere, into the environment /opt/forklight
#   install.sh rooms              the same rooms themselves, into /opt/rooms, which that environment sees
# TORCH_INDEX: one more package index, for a build of torch of its own (CPU); empty: PyPI alone.
# UNPINNED: names whose versions the constraints leave open, for what pins them itself (vLLM: torch triton fastapi).
set -eu

constraints=constraints-used.txt
environment=/opt/forklight
tools=/opt/tools
pip="$tools/bin/python -m pip --disable-pip-version-check --no-input --no-cache-dir"

what=$1
shift
case "$what" in
packages)
    echo "$@" >rooms.txt
    cp infra/constraints.txt "$constraints"
    for name in ${UNPINNED:-}; do
        sed -i "/^$name==/d" "$constraints"
    done
    python3 -m venv "$tools"
    $pip install -q -c "$constraints" hatchling
    python3 infra/third_party.py "$@" >third-party.txt
    python3 -m venv --without-pip "$environment"
    # The index is asked for torch alone: a package of the same name elsewhere must not win over PyPI's.
    if [ -n "${TORCH_INDEX:-}" ] && grep -q '^torch' third-party.txt; then
        torch=$(grep -m 1 '^torch==' "$constraints" || echo torch)
        $pip --python "$environment/bin/python" install -q --no-deps --index-url "$TORCH_INDEX" "$torch"
    fi
    $pip --python "$environment/bin/python" install -q -c "$constraints" -r third-party.txt
    $pip --python "$environment/bin/python" check
    folder=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo /opt/rooms >"$folder/forklight-rooms.pth"
    ;;
rooms)
    folders=
    for room in $(cat rooms.txt); do
        folders="$folders ./${room%%\[*}"
    done
    # shellcheck disable=SC2086 # folders are words
    $pip wheel -q --no-deps --no-build-isolation --wheel-dir wheels $folders
    $pip --python "$environment/bin/python" install -q --no-deps --no-index --target /opt/rooms wheels/*.whl
    ;;
*)
    echo "install.sh: expected packages or rooms, got '$what'" >&2
    exit 2
    ;;
esac
