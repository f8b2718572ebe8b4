"""What the benchmarks are asked for, and how large each is by default."""

# ruff: noqa: INP001
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    parts: tuple[str, ...]
    size: str
    device: str
    is_quick: bool
    batch: int | None
    contexts: tuple[int, ...] | None
    steps: int | None
    tokens: int | None
    scale: float | None
    budget_gib: float
    peers: Path | None
    has_peers: bool
    vllm_rates: dict[int, float]

    def pick(self, full: T, *, quick: T, tiny: T) -> T:
        """The full extent, the one of --quick, or what a CPU gets through in a second."""
        if self.device == "cpu":
            return tiny
        return quick if self.is_quick else full


def parse_options(parts: Sequence[str], arguments: Sequence[str] | None, description: str) -> Options:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("parts", nargs="+", choices=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--size", default="small", help="named size of the model (parity: always mini)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="a fraction of the work, rougher figures")
    parser.add_argument("--batch", type=int, help="sequences decoded together")
    parser.add_argument(
        "--contexts", type=_numbers, help="decode, growth: tokens of context, comma-separated"
    )
    parser.add_argument("--steps", type=int, help="growth: of the run in one go; overhead: timed")
    parser.add_argument("--tokens", type=int, help="long: tokens of the prompt")
    parser.add_argument("--scale", type=float, help="tail: factor on all lengths")
    parser.add_argument("--budget-gib", type=float, default=0.0, help="memory of the caches; 0: what is free")
    parser.add_argument(
        "--peers", type=Path, help="folder with transformers_minimax.py to use instead of ours"
    )
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--vllm-tokens-per-s",
        type=_rates,
        default={},
        help="decode: what vLLM's own script measured, as CONTEXT=RATE,... or one rate for every context",
    )
    found = parser.parse_args(arguments)
    return Options(
        parts=tuple(found.parts),
        size=found.size,
        device=found.device,
        is_quick=found.quick,
        batch=found.batch,
        contexts=found.contexts,
        steps=found.steps,
        tokens=found.tokens,
        scale=found.scale,
        budget_gib=found.budget_gib,
        peers=found.peers,
        has_peers=not found.no_peers,
        vllm_rates=found.vllm_tokens_per_s,
    )


ANY_CONTEXT = 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _rates(text: str) -> dict[int, float]:
    if "=" not in text:
        return {ANY_CONTEXT: float(text)}
    pairs = (part.split("=") for part in text.split(","))
    return {int(context): float(rate) for context, rate in pairs}
