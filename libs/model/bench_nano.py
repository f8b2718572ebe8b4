"""Times the nano model on one thread: a decode step at batch 64, and forward+backward on packed sequences.

Run: python libs/model/bench_nano.py [--profile]
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from forklight_model.cache import HybridCache
from forklight_model.inference import decode, prefill
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES, num_active_parameters, num_parameters

NUM_SLOTS = 64
NUM_SEQUENCES = 128
MAX_TOKENS = 256


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """The fastest of several runs: on a shared machine the least disturbed one."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def packed_sequences(vocab_size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths_N = torch.randint(20, 61, (NUM_SEQUENCES,), generator=generator)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_N.cumsum(0)]).to(torch.int32)
    return torch.randint(vocab_size, (int(cu_seqlens[-1]),), generator=generator), cu_seqlens


def decode_step(model: HybridModel, context: int) -> Callable[[], object]:
    """A decode step over every slot, always at the same context length."""
    cache = HybridCache(model.config, NUM_SLOTS, MAX_TOKENS)
    slots_B = torch.arange(NUM_SLOTS)
    prompt_T = torch.randint(model.config.vocab_size, (NUM_SLOTS * context,))
    prefill(model, cache, slots_B, prompt_T, torch.arange(NUM_SLOTS + 1, dtype=torch.int32) * context)
    next_B = torch.randint(model.config.vocab_size, (NUM_SLOTS,))

    def step() -> None:
        decode(model, cache, slots_B, next_B)
        cache.lengths_S -= 1

    return step


def training_step(model: HybridModel, input_ids_T: Tensor, cu_seqlens: Tensor) -> Callable[[], object]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        token_logprobs(model, input_ids_T, cu_seqlens).logprobs_T.mean().backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="also print where the time goes, op by op")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = HybridModel(SIZES["nano"])
    print(f"parameters {num_parameters(model.config):,}, active {num_active_parameters(model.config):,}")
    for context in (32, 128):
        print(f"decode, batch {NUM_SLOTS}, context {context}: {1e3 * best_seconds(decode_step(model, context), 40):.2f} ms")
    input_ids_T, cu_seqlens = packed_sequences(model.config.vocab_size)
    step = training_step(model, input_ids_T, cu_seqlens)
    seconds = best_seconds(step, 5)
    print(f"forward+backward, {len(input_ids_T)} tokens: {1e3 * seconds:.0f} ms, {len(input_ids_T) / seconds:,.0f} tokens/s")
    if arguments.profile:
        for work in (step, decode_step(model, 32)):
            with torch.profiler.profile() as profile:
                work()
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=28, max_name_column_width=44))


if __name__ == "__main__":
    main()
