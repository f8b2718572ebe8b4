"""Lets these scripts run from a checkout alone: our packages, and the benchmarks' harness."""

# ruff: noqa: INP001
from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("kernels", "libs/core", "libs/model", "services/trainer", "kernels/bench")

sys.path += [str(ROOT / folder) for folder in FOLDERS if str(ROOT / folder) not in sys.path]
