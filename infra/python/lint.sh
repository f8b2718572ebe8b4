#!/usr/bin/env bash
# Style and import floors.
set -uo pipefail
cd "$(dirname "$0")/../.."

failed=0
.venv/bin/ruff check . || failed=1
.venv/bin/lint-imports --no-cache || failed=1
exit $failed
