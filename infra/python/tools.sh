#!/usr/bin/env bash
# What some tests need from outside Python: Prometheus, a browser, kubectl. Where they cannot be had, those tests skip
# and say what is missing. Debian's packages want root.
set -uo pipefail
cd "$(dirname "$0")/../.."

wanted=()
command -v promtool >/dev/null || wanted+=(prometheus)
command -v chromium >/dev/null || wanted+=(chromium)
if [ ${#wanted[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    (apt-get update -qq && apt-get install -y -qq --no-install-recommends "${wanted[@]}") >/dev/null 2>&1 ||
        echo "could not install ${wanted[*]}: the tests that need them will skip"
fi
bash infra/k8s/get_kubectl.sh || echo "no kubectl: the tests that need it will skip"
exit 0
