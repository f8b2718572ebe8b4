#!/usr/bin/env bash
# Style and import floors.
set -euo pipefail
cd "$(dirname "$0")/../.."
.venv/bin/ruff check .
PYTHONPATH=kernels:libs/core:libs/model:libs/cli:services/buffer:services/rollout:services/reward:services/trainer:services/console \
    .venv/bin/lint-imports --no-cache
