"""The GPUs a run can be planned on: datasheet figures and a price of an hour."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from forklight_core.errors import ConfigError

GPUS_A_NODE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU and its share of the node's links, as the maker states them; decimal bytes, per second."""

    name: str
    memory_bytes: float
    matmul_flops: float
    """bf16, dense."""
    memory_bandwidth: float
    nvlink_bandwidth: float
    """In one direction."""
    network_bandwidth: float
    """One network port a GPU, in one direction."""
    price_per_hour: float
    """US dollars."""
    price_source: str


def _gpu(name: str, memory_gb: float, tflops: float, hbm_gbs: float, nvlink_gbs: float, price: float) -> Gpu:
    return Gpu(
        name=name,
        memory_bytes=memory_gb * 1e9,
        matmul_flops=tflops * 1e12,
        memory_bandwidth=hbm_gbs * 1e9,
        nvlink_bandwidth=nvlink_gbs * 1e9,
        network_bandwidth=(25e9 if name == "a100" else 50e9),
        price_per_hour=price,
        price_source=(
            "the paper: $534,700 for 512 GPUs and three weeks (2025)"
            if name == "h800"
            else "assumed, 2026-11: ask your provider"
        ),
    )


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            _gpu("a100", 80, 312, 2039, 300, 1.50),
            _gpu("h100", 80, 989, 3350, 450, 2.50),
            _gpu("h200", 141, 989, 4800, 450, 3.50),
            _gpu("h800", 80, 989, 3350, 200, 2.07),
        )
    }
)


def find_gpu(name: str) -> Gpu:
    """ConfigError with what exists where the name is unknown."""
    if name in GPUS:
        return GPUS[name]
    near = difflib.get_close_matches(name, GPUS, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ConfigError(f"no GPU is called {name!r}{hint} There are {', '.join(GPUS)}")
