"""Another implementation's decode step beside ours, where it is installed."""

# ruff: noqa: INP001
from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import paths
from options import Options
from report import Report
from stage import free_memory

PEER_CONTEXTS = (2048, 16384)
"""Beyond them its own copies of keys and values at every step fill the memory."""


def measure_peer(report: Report, options: Options, batch: int, contexts: tuple[int, ...]) -> dict[int, float]:
    """Tokens a second of transformers' model by context; empty where there is none, with the reason."""
    rates: dict[int, float] = {}
    if options.device != "cuda" or not options.has_peers:
        return rates
    wanted = [context for context in contexts if context in PEER_CONTEXTS]
    if importlib.util.find_spec("transformers") is None:
        report.say("peer transformers: skipped, it is not installed")
        return rates
    build, decode = _load(options.peers)
    model = build(options.size)

    def measure(context: int) -> None:
        rates[context] = decode(model, batch, context)["tokens_per_s"]

    for context in wanted:
        report.guard(f"peer transformers {context}", partial(measure, context))
        free_memory()
    for context, rate in rates.items():
        report.add(f"transformers, {batch} x {context:,}", rate, "tokens/s", notes="peer, eager, in this run")
    return rates


def _load(folder: Path | None) -> tuple[Callable[[str], object], Callable[..., Mapping[str, float]]]:
    """The peer that libs/model/bench_gpu.py builds, or a script's own."""
    if folder is None:
        module = _import(paths.ROOT / "libs/model/bench_gpu.py")
        return module.peer_model, module.peer_decode
    module = _import(folder / "transformers_minimax.py")
    return (lambda size: module.build(size, "cuda")), module.decode


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
