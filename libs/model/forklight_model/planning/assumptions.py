"""Every number that a plan takes on trust, with its unit and source. Any may be replaced by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from forklight_core.errors import ConfigError

KERNELS = "measured on an H200, 2026-11-21 (kernels/README.md)"
ROLLOUT = "measured on an H200, 2026-11-21 (services/rollout/bench/README.md)"


def _assumed(value: float, unit: str, source: str) -> Any:  # noqa: ANN401 - a dataclass field of any type
    return field(default=value, metadata={"unit": unit, "source": source})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a GPU reaches of its datasheet, what links reach of theirs, and what is kept free.

    One set for all models and GPUs: training and decode are counted in products, bytes and launches, and each
    of these has one rate.
    """

    matmul_share: float = _assumed(
        0.607,
        "of the peak",
        f"600 TFLOP/s in training `small`, the one rate fitted to its two shapes; {KERNELS}",
    )
    attention_share: float = _assumed(
        0.465, "of the peak", f"softmax attention, 86 of 369 ms at 1 x 32K of `small`; {KERNELS}"
    )
    copy_share: float = _assumed(0.89, "of memory bandwidth", f"4.27 of 4.8 TB/s; {ROLLOUT}")
    elementwise_share: float = _assumed(0.8, "of a copy", f"norms, gates and sums: 0.65 to 0.94; {KERNELS}")
    lightning_share: float = _assumed(0.72, "of a copy", f"lightning forward and backward; {KERNELS}")
    layer_overhead_us: float = _assumed(
        35.0, "us a layer and decode step", f"the one figure fitted to five decode steps; {ROLLOUT}"
    )
    message_us: float = _assumed(10.0, "us a message in a node", "assumed")
    network_message_us: float = _assumed(20.0, "us a message between nodes", "assumed")
    nvlink_share: float = _assumed(0.8, "of NVLink", "assumed: 160 of 200 GB/s on an H800")
    network_share: float = _assumed(0.8, "of the network port", "assumed: 40 of 50 GB/s")
    hidden_share: float = _assumed(
        0.85, "of ZeRO's traffic", "assumed: gathered behind products, as long as they take"
    )
    hot_expert_time: float = _assumed(
        2.0,
        "x the mean load",
        "assumed, with experts spread over GPUs; 2.6 to 5.1 seen upstream in one layer",
    )
    hot_expert_memory: float = _assumed(
        3.0, "x the mean load", "assumed, with experts spread over GPUs: the worst layer of a step"
    )
    buffers_gb: float = _assumed(7.0, "GB a trainer GPU", "assumed: NCCL, buckets, CUDA context")
    lone_buffers_gb: float = _assumed(
        2.0, "GB of a process alone on its GPU", "assumed: CUDA context, workspace"
    )
    memory_share: float = _assumed(0.95, "of memory may be planned", "assumed: the rest is lost to fragments")
    staged_copies: float = _assumed(
        1.0, "x the weights", "the rollout engine loads new weights beside those in use"
    )
    decode_busy: float = _assumed(
        0.9, "of the time at full batch", f"0.986 until 5 % of a batch remain; {ROLLOUT}; rounded down"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is generated and trained on. A batch is what is generated under one published version."""

    batches: float = _assumed(100, "generation batches", "assumed")
    groups: float = _assumed(256, "groups a batch", "assumed")
    group_size: float = _assumed(16, "samples a group", "run file's default")
    window: float = _assumed(32_768, "tokens of the longest response", "assumed")
    pack_tokens: float = _assumed(
        0, "tokens of a pack; 0: prompt and window", "assumed: the longest sample fits"
    )
    max_batch: float = _assumed(256, "sequences a pod decodes together at most", "shipped run files")
    prompt_tokens: float = _assumed(512, "tokens of a prompt", "assumed")
    p50_share: float = _assumed(
        0.2, "of the window: median length", "assumed: 16K at 80K, so a mean near 20K"
    )
    p99_share: float = _assumed(
        0.9, "of the window: 99th percentile", "the paper moves on when it nears the window"
    )
    updates: float = _assumed(16, "optimizer steps a batch", "the paper: up to 16")


PAPER = Workload(batches=1800, groups=512, window=81_920, max_batch=1024)
PAPER_RATES = Rates(staged_copies=0)
PAPER_SOURCES: Mapping[str, str] = {
    "batches": "assumed: the paper publishes no number of batches or steps",
    "groups": "assumed: the paper publishes no batch size",
    "group_size": "assumed: the paper publishes no group size",
    "window": "the paper's last window",
    "max_batch": "assumed: as many as memory holds",
    "staged_copies": "assumed: read into place. Today's engine holds a second copy (1)",
}
PAPER_DAYS, PAPER_DOLLARS, PAPER_GPUS = 21.0, 534_700.0, 512
_POSITIVE_OR_ZERO = frozenset(
    {"pack_tokens", "prompt_tokens", "staged_copies", "buffers_gb", "lone_buffers_gb"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """One line of the list that a plan prints."""

    name: str
    value: float
    unit: str
    source: str
    option: str


def list_assumptions(rates: Rates, workload: Workload, sources: Mapping[str, str]) -> Sequence[Assumption]:
    """All of them; `sources` says where a value comes from that is not the default's."""
    return [
        Assumption(
            name=each.name,
            value=getattr(group, each.name),
            unit=str(each.metadata["unit"]),
            source=sources.get(each.name, str(each.metadata["source"])),
            option=f"--assume {each.name}=VALUE",
        )
        for group in (workload, rates)
        for each in fields(group)
    ]


def replace_assumptions(
    rates: Rates, workload: Workload, values: Mapping[str, float]
) -> tuple[Rates, Workload]:
    """The same with other values; ConfigError for a name that is none, or a value that cannot be."""
    of_rates, of_workload = {each.name for each in fields(rates)}, {each.name for each in fields(workload)}
    for name, value in values.items():
        if name not in of_rates | of_workload:
            near = difflib.get_close_matches(name, of_rates | of_workload, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            known = ", ".join(sorted(of_rates | of_workload))
            raise ConfigError(f"nothing assumed is called {name!r}{hint} There are {known}")
        _check_value(name, value)
    rates = replace(rates, **{name: value for name, value in values.items() if name in of_rates})
    workload = replace(workload, **{name: value for name, value in values.items() if name in of_workload})
    if workload.p50_share > workload.p99_share:
        raise ConfigError(
            f"p50_share = {workload.p50_share} exceeds p99_share = {workload.p99_share}: a median is "
            "no longer than the 99th percentile"
        )
    return rates, workload


def _check_value(name: str, value: float) -> None:
    is_share = name.endswith(("_share", "_busy"))
    if not math.isfinite(value) or value < 0 or (value == 0 and name not in _POSITIVE_OR_ZERO):
        raise ConfigError(f"{name} = {value} must be a number above 0")
    if is_share and value > 1:
        raise ConfigError(f"{name} = {value} is a share: at most 1")
    if name.startswith("hot_expert") and value < 1:
        raise ConfigError(f"{name} = {value} compares the fullest GPU with the mean: at least 1")
