"""Times the nano model on one thread: a decode step at batch 64, and forward+backward on packed sequences.

Usage: python libs/model/bench_nano.py [--hidden-size 128] [--profile]
Times are CPU seconds of the thread, best of several: on a shared machine the least disturbed run.
"""

# ruff: noqa: INP001
import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from forklight_model.cache import CacheForm, HybridCache
from forklight_model.inference import PromptPieces, decode, prefill
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES, num_active_parameters, num_parameters

NUM_SLOTS = 64
NUM_SEQUENCES = 128
CONTEXTS = {32: 256, 128: 256, 600: 768}
"""Tokens before a decode step, and the capacity of its slots."""
Packed = tuple[Tensor, Tensor]
"""Token ids and cu_seqlens."""


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def random_sequences(vocab_size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 61, (NUM_SEQUENCES,), generator=generator).tolist()
    return [torch.randint(vocab_size, (length,), generator=generator) for length in lengths]


def micro_batches(sequences: list[Tensor], size: int) -> list[Packed]:
    ordered = sorted(sequences, key=len)
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    offsets = [torch.tensor([0, *map(len, part)]).cumsum(0).to(torch.int32) for part in parts]
    return [(torch.cat(part), cu_seqlens) for part, cu_seqlens in zip(parts, offsets, strict=True)]


def managed_cache(model: HybridModel, max_tokens: int) -> HybridCache:
    """Its pages lie in any order, as an engine's do."""
    own = HybridCache(model.config, NUM_SLOTS, max_tokens)
    cache = HybridCache(model.config, NUM_SLOTS, max_tokens, form=CacheForm(num_pages=own.num_pages))
    pages = (torch.randperm(own.num_pages - 1, generator=torch.Generator().manual_seed(0)) + 1).tolist()
    slots = [slot for slot in range(NUM_SLOTS) for _ in range(own.num_columns)]
    cache.write_table(slots, [*range(own.num_columns)] * NUM_SLOTS, pages)
    return cache


def decode_step(model: HybridModel, context: int, *, is_managed: bool = False) -> Callable[[], object]:
    """A decode step over every slot, always at the same context length."""
    max_tokens = CONTEXTS[context]
    cache = (
        managed_cache(model, max_tokens) if is_managed else HybridCache(model.config, NUM_SLOTS, max_tokens)
    )
    prompt_T = torch.randint(model.config.vocab_size, (NUM_SLOTS * context,))
    pieces = PromptPieces(slots=range(NUM_SLOTS), lengths=[context] * NUM_SLOTS)
    prefill(model, cache, pieces, prompt_T)
    next_B = torch.randint(model.config.vocab_size, (NUM_SLOTS,))

    def step() -> None:
        decode(model, cache, NUM_SLOTS, next_B)
        cache.lengths_S -= 1

    return step


def training_step(model: HybridModel, batches: list[Packed]) -> Callable[[], object]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        for input_ids_T, cu_seqlens in batches:
            token_logprobs(model, input_ids_T, cu_seqlens).logprobs_T.mean().backward()

    return step


def report(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden-size", type=int, default=SIZES["nano"].hidden_size)
    parser.add_argument("--intermediate-size", type=int, default=SIZES["nano"].intermediate_size)
    parser.add_argument("--profile", action="store_true", help="also print where the time goes, op by op")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": options.hidden_size, "intermediate_size": options.intermediate_size}
    model = HybridModel(replace(SIZES["nano"], **sizes))
    report(f"parameters {num_parameters(model.config):,}, active {num_active_parameters(model.config):,}")
    for context in CONTEXTS:
        in_order, anywhere = (
            1e3 * best_seconds(decode_step(model, context, is_managed=is_managed), 60)
            for is_managed in (False, True)
        )
        case = f"decode, batch {NUM_SLOTS}, context {context}"
        report(f"{case}: {in_order:.2f} ms, pages anywhere {anywhere:.2f} ms")
    sequences = random_sequences(model.config.vocab_size)
    num_tokens = sum(map(len, sequences))
    for size in (NUM_SEQUENCES, 32):
        step = training_step(model, micro_batches(sequences, size))
        seconds = best_seconds(step, 8)
        rate = f"{1e3 * seconds:.0f} ms, {num_tokens / seconds:,.0f} tokens/s"
        report(f"forward+backward, {num_tokens} tokens, {size} sequences at a time: {rate}")
    if options.profile:
        for work in (step, decode_step(model, 32)):
            with torch.profiler.profile() as profile:
                work()
            report(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=28))


if __name__ == "__main__":
    main()
