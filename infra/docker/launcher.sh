#!/bin/sh
# Inside the build stage of an image with Triton: compiles the one C file that Triton would compile at its first
# kernel, so that the image that runs needs no compiler. Without Triton (torch for CPUs) there is nothing to do.
# forklight-cc gives the result to Triton, for exactly this source.
set -eu

environment=${ENVIRONMENT:-/opt/forklight}
here=$(dirname "$0")
python="$environment/bin/python"
folder=$("$python" -c 'from importlib.util import find_spec as f; s = f("triton"); print(s.submodule_search_locations[0] if s else "")')
source="$folder/backends/nvidia/driver.c"
if [ ! -f "$source" ]; then
    exit 0
fi

includes=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include", "posix_prefix"))')
if ! command -v gcc >/dev/null || [ ! -f "$includes/Python.h" ]; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null
    [ -f "$includes/Python.h" ] || apt-get install -y -qq --no-install-recommends libpython3-dev >/dev/null
fi

out="$environment/launcher"
mkdir -p "$out" "$environment/bin"
# The driver's library belongs to the machine; an empty one of its name is enough to be linked against.
echo 'void forklight_nothing(void) {}' >"$out/nothing.c"
gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$out/libcuda.so.1" "$out/nothing.c"
gcc "$source" -O3 -shared -fPIC -Wno-psabi -o "$out/cuda_utils.so" \
    -Wl,--no-as-needed -l:libcuda.so.1 -L"$out" -I"$folder/backends/nvidia/include" \
    -I"$includes"
rm "$out/nothing.c" "$out/libcuda.so.1"
cp "$source" "$out/driver.c"
install -m 755 "$here/forklight-cc" "$environment/bin/forklight-cc"
