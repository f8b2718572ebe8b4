"""Filtered sampling at decode sizes beside a sort in torch, and the end rules.

    python kernels/bench/bench_sampler.py [--tune]

Two kinds of rows: flat, where 95 % of the mass are 45 % of a vocabulary of 200,064, and peaked, where a few
hundred tokens hold it. Legend: B sequences, V vocabulary.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from harness import DEVICE, Table, attempt, graph_ms, require_gpu
from torch import Tensor

from forklight_kernels import EndColumns, SampledTokens, SamplingRequest, apply_end_rules, sampler
from forklight_kernels.sampler import triton_gpu

VOCABULARIES, BATCHES = (65536, 200064), (64, 256)
DEVIATIONS = {"flat": 1.6, "peaked": 4.0}
TEMPERATURE, TOP_P, TOP_K = 0.9, 0.95, 50
PREDICTED_MS = {(65536, 64): 0.08, (65536, 256): 0.20, (200064, 64): 0.20, (200064, 256): 0.60}
"""Of top_p in flat rows, from instruction counts and passes, before the first run on a GPU."""


def request(num_rows: int, top_p: float, top_k: int, is_filtered: bool | None = None) -> SamplingRequest:
    return SamplingRequest(
        temperatures_B=torch.full((num_rows,), TEMPERATURE, device=DEVICE),
        top_ps_B=torch.full((num_rows,), top_p, device=DEVICE),
        top_ks_B=torch.full((num_rows,), top_k, device=DEVICE, dtype=torch.int32) if top_k else None,
        seeds_B=torch.arange(num_rows, device=DEVICE),
        positions_B=torch.arange(num_rows, device=DEVICE),
        is_filtered=is_filtered,
    )


def torch_top_p(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """What a plain engine does: sort, cumulative sum, mask, exponential race."""
    sorted_BV, ids_BV = torch.sort(logits_BV / TEMPERATURE, dim=-1, descending=True)
    p_BV = torch.softmax(sorted_BV, -1)
    p_BV = p_BV.masked_fill(p_BV.cumsum(-1) - p_BV >= TOP_P, 0.0)
    places_B1 = (p_BV / torch.empty_like(p_BV).exponential_()).argmax(-1, keepdim=True)
    return ids_BV.gather(1, places_B1), (p_BV.gather(1, places_B1) / p_BV.sum(-1, keepdim=True)).log()


def logits_of(kind: str, num_rows: int, vocab_size: int) -> list[Tensor]:
    """Two batches, so that one does not find the other's rows in the cache."""
    torch.manual_seed(0)
    return [torch.randn(num_rows, vocab_size, device=DEVICE) * DEVIATIONS[kind] for _ in range(2)]


def time_ms(label: str, draw: Callable[[Tensor], object], batches: list[Tensor]) -> float | None:
    return attempt(label, partial(graph_ms, [partial(draw, logits_BV) for logits_BV in batches]))


def bench_filters() -> None:
    table = Table(
        name="sampler_filters",
        columns=(
            *("rows", "V", "batch", "no filter ms", "unknown filter ms", "top_p 0.95 ms", "predicted ms"),
            *("top_k 50 ms", "both ms", "torch top_p ms", "torch / ours"),
        ),
        note=f"graphs, fp32 logits, temperature {TEMPERATURE}; prediction for flat rows with top_p",
    )
    for kind, vocab_size, num_rows in product(DEVIATIONS, VOCABULARIES, BATCHES):
        batches = logits_of(kind, num_rows, vocab_size)
        asked = (
            request(num_rows, 1.0, 0, False),
            request(num_rows, 1.0, 0),
            request(num_rows, TOP_P, 0),
            request(num_rows, 1.0, TOP_K),
            request(num_rows, TOP_P, TOP_K),
        )
        label = f"{kind} {vocab_size} x {num_rows}"
        times = [time_ms(label, lambda rows, one=one: sampler(rows, one), batches) for one in asked]
        torch_ms = time_ms(f"torch {label}", torch_top_p, batches)
        predicted = PREDICTED_MS[vocab_size, num_rows] if kind == "flat" else None
        ratio = torch_ms / times[2] if torch_ms and times[2] else None
        table.add(kind, vocab_size, num_rows, *times[:3], predicted, *times[3:], torch_ms, ratio)
        torch.cuda.empty_cache()
    table.show()


def bench_end_rules() -> None:
    table = Table(name="end_rules", columns=("batch", "us", "predicted us"), note="a graph of 20 calls")
    for num_rows in (1, *BATCHES):
        call = partial(apply_end_rules, *end_rules_input(num_rows))
        milliseconds = attempt(f"end rules {num_rows}", partial(graph_ms, [call] * 20))
        table.add(num_rows, milliseconds and milliseconds * 1e3, 2.5)
    table.show()


def end_rules_input(num_rows: int) -> tuple[SampledTokens, EndColumns]:
    def column(value: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.full((num_rows,), value, device=DEVICE, dtype=dtype)

    logprobs_B = column(-1, torch.float32)
    return SampledTokens(ids_B=column(5), logprobs_B=logprobs_B, raw_logprobs_B=logprobs_B), EndColumns(
        is_live_B=column(1),
        num_tokens_B=column(0),
        max_tokens_B=column(2**40),
        num_certain_B=column(0, torch.int32),
        certain_limits_B=column(3000, torch.int32),
        certain_logprobs_B=torch.full((num_rows,), -0.01, device=DEVICE),
        stop_ids_BK=torch.tensor([[2, 7, -1, -1]], device=DEVICE).repeat(num_rows, 1),
        reasons_B=column(0, torch.uint8),
        last_ids_B=column(0),
        positions_B=column(0),
    )


TUNED = {
    "COUNT_WARPS": (4, 8),
    "COLLECT_WARPS": (8, 4),
    "SELECT_WARPS": (8, 16),
    "CANDIDATES_AT_ONCE": (4096, 2048),
}
"""Constants of triton_gpu.py, the shipped value first. They change no bit."""


def tune() -> None:
    """One constant at a time; about 20 s."""
    for num_rows, kind in product(BATCHES, DEVIATIONS):
        batches, asked = logits_of(kind, num_rows, 200064), request(num_rows, TOP_P, 0)
        for name, values in TUNED.items():
            for value in values:
                setattr(triton_gpu, name, value)
                milliseconds = time_ms(f"{name} {value}", lambda rows, one=asked: sampler(rows, one), batches)
                print(f"{kind} x {num_rows} {name} {value}: {milliseconds} ms", flush=True)
            setattr(triton_gpu, name, values[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    require_gpu()
    if options.tune:
        tune()
        return
    bench_filters()
    bench_end_rules()


if __name__ == "__main__":
    main()
