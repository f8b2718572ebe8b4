"""How long responses are: a lognormal through a median and a 99th percentile, cut at the window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from forklight_model.planning.assumptions import Workload

Z99 = NormalDist().inv_cdf(0.99)
NUM_QUANTILES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens. `train_context` is the keys that a token attends to; `decode_context` the tokens that a running
    sequence has cached, on average over the time it runs."""

    mean: float
    p50: float
    p99: float
    train_context: float
    decode_context: float


def fixed_length(num_tokens: float) -> Lengths:
    """All sequences alike, as benchmarks have them."""
    return Lengths(
        mean=num_tokens,
        p50=num_tokens,
        p99=num_tokens,
        train_context=num_tokens / 2,
        decode_context=num_tokens / 2,
    )


@cache
def spread_lengths(workload: Workload) -> Lengths:
    """The lengths of a workload. A sequence of L tokens has L/2 before its average token."""
    p50, p99 = workload.p50_share * workload.window, workload.p99_share * workload.window
    sigma = math.log(p99 / p50) / Z99
    normal = NormalDist(math.log(p50), sigma) if sigma else None
    places = ((at + 0.5) / NUM_QUANTILES for at in range(NUM_QUANTILES))
    drawn = [min(workload.window, math.exp(normal.inv_cdf(at))) if normal else p50 for at in places]
    whole = [workload.prompt_tokens + length for length in drawn]
    mean = math.fsum(drawn) / NUM_QUANTILES
    before = [length * (workload.prompt_tokens + length / 2) for length in drawn]
    return Lengths(
        mean=mean,
        p50=p50,
        p99=p99,
        train_context=math.fsum(length**2 for length in whole) / math.fsum(whole) / 2,
        decode_context=math.fsum(before) / math.fsum(drawn),
    )
