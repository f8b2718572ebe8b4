"""Measures decoding on this CPU: tokens a second, and the share of a step that is not the model.

Usage: python services/rollout/bench/decode_cpu.py [--size nano] [--batch 64] [--threads 1] ... (--help)
Random weights; every sequence runs to max_new_tokens, groups follow each other as in a pod.
"""

# ruff: noqa: INP001
from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_rollout.adapters.native import NativeEngine, NativeOptions
from forklight_rollout.adapters.native.factory import plan_engine
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import GroupWork, SampleStart
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules

LENGTHS = 8
"""Groups differ in length by up to so many tokens, so that they do not end in step."""


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    engine = make_engine(options)
    generator = Generator(engine)
    num_tokens = (options.warmup + options.steps) * options.batch
    num_groups = (
        num_tokens // (options.group * (options.new_tokens - LENGTHS)) + options.batch // options.group
    )
    for index in range(num_groups + 2):
        generator.add(make_group(index, options))
    for _ in range(options.warmup):
        generator.step()
    report(engine, generator, options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="nano", choices=sorted(SIZES))
    for name, default in (
        ("batch", 64),
        ("steps", 200),
        ("warmup", 20),
        ("threads", 1),
        ("group", 16),
        ("prompt-tokens", 64),
        ("new-tokens", 128),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--record-routing", action="store_true")
    return parser.parse_args()


def make_engine(options: argparse.Namespace) -> NativeEngine:
    wish = MemoryWish(
        max_batch=options.batch,
        max_prompt_tokens=options.prompt_tokens,
        max_new_tokens=options.new_tokens,
        budget_bytes=0,
    )
    manner = NativeOptions(dtype="float32", device="cpu", records_routing=options.record_routing)
    model = HybridModel(SIZES[options.size]).requires_grad_(False)
    return NativeEngine(model, plan_engine(wish, manner, model, "cpu"), manner, version=0)


def make_group(index: int, options: argparse.Namespace) -> GroupWork:
    group_id = f"bench/g{index:08d}"
    end = EndRules(max_new_tokens=options.new_tokens - index % LENGTHS, repetition_tokens=3000)
    samples = tuple(
        SampleStart(sample_id=f"{group_id}/s{number:03d}", seed=number) for number in range(options.group)
    )
    vocab_size = SIZES[options.size].vocab_size
    prompt_ids = tuple((index + place) % vocab_size for place in range(options.prompt_tokens))
    draw = DrawRules(temperature=1.0)
    return GroupWork(group_id=group_id, prompt_ids=prompt_ids, draw=draw, end=end, samples=samples)


def report(engine: NativeEngine, generator: Generator, options: argparse.Namespace) -> None:
    durations, tokens_before, model_before = [], generator.num_tokens, engine.model_s
    cpu_before = time.process_time()
    for _ in range(options.steps):
        started = time.perf_counter()
        generator.step()
        durations.append(time.perf_counter() - started)
    total, tokens = sum(durations), generator.num_tokens - tokens_before
    per_cpu_s = tokens / (time.process_time() - cpu_before)
    overhead = 1 - (engine.model_s - model_before) / total
    sys.stdout.write(
        f"{options.size}, batch {options.batch}, threads {options.threads}: {tokens / total:,.0f} tokens/s, "
        f"{per_cpu_s:,.0f} tokens a CPU second, "
        f"step median {statistics.median(durations) * 1e3:.2f} ms, mean batch {tokens / options.steps:.1f}, "
        f"overhead {overhead:.1%} of a step ({overhead * total / options.steps * 1e3:.3f} ms)\n"
    )


if __name__ == "__main__":
    main()
