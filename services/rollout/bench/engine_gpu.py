"""The rollout engine on one NVIDIA GPU, beside peers and targets; random weights.

    python services/rollout/bench/engine_gpu.py decode tail [--size small] [--quick] ... (--help)

Needs torch, Triton, numpy, safetensors, protobuf and blake3, and no installation of ours. `--device cpu
--size nano` runs every part at a tiny extent: that measures nothing, but it shows that they work.
"""

# ruff: noqa: INP001
from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import paths  # noqa: F401
from case_decode import decode, filters, growth
from case_long import long
from case_overhead import overhead
from case_parity import parity
from case_swap import swap
from case_tail import tail
from harness import attempt, require_gpu
from options import Options, parse_options
from report import Report, traced
from stage import free_memory

PARTS: Mapping[str, Callable[[Options], Report]] = {
    "decode": decode,
    "overhead": overhead,
    "filters": filters,
    "swap": swap,
    "parity": parity,
    "growth": growth,
    "long": long,
    "tail": tail,
}
PEER = "peer"
"""How the label of a row begins that is not ours: it may fail."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The number of rows of ours that failed."""
    options = parse_options(tuple(PARTS), arguments, __doc__ or "")
    if options.device == "cuda":
        require_gpu()
    wrong: list[str] = []
    for part in options.parts:
        report = attempt(part, partial(traced, partial(PARTS[part], options)))
        if report is None:
            wrong.append(part)
        else:
            report.show()
            wrong += [label for label in report.failed if not label.startswith(PEER)]
        free_memory()
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
