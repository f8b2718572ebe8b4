"""New weights between two steps: how long decoding stands still, and whether it is the new ones that draw."""

# ruff: noqa: INP001
from __future__ import annotations

import time
from itertools import pairwise

import paths  # noqa: F401
from meters import time_steps
from options import Options
from report import Report
from stage import (
    SLACK_TOKENS,
    Extent,
    clear,
    fill,
    free_memory,
    make_engine,
    make_model,
    make_work,
    put_staged,
    random_prompt,
)

from forklight_model.model import HybridModel
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.generation.draft import Stretch
from forklight_rollout.generation.generator import Generator

PAUSE_MS = 50.0
WARMUP_STEPS = 16
NUM_SWAPS = 3


def swap(options: Options) -> Report:
    """Staged weights lie on the GPU, as `stage` leaves them."""
    report = Report("swap", options.device)
    staged = make_model(options, seed=1)
    swapped: list[Stretch] = []
    report.guard("swap", lambda: swapped.extend(_swap_under_way(report, options, staged)))
    free_memory()
    report.guard("fresh weights", lambda: _compare(report, options, staged, swapped))
    return report


def _swap_under_way(report: Report, options: Options, staged: HybridModel) -> list[Stretch]:
    """Pauses of a running batch; then what the engine answers with its new weights."""
    context = options.pick(2048, quick=2048, tiny=40)
    extent = Extent(
        batch=_batch(options), prompt_tokens=context, new_tokens=SLACK_TOKENS + 64 * (1 + NUM_SWAPS)
    )
    engine, words = make_engine(make_model(options), options, extent)
    report.say(f"plan: {words}")
    generator = Generator(engine)
    _pause_rows(report, generator, staged, context)
    return _answers(generator, options)


def _batch(options: Options) -> int:
    return options.batch or options.pick(64, quick=64, tiny=4)


def _pause_rows(report: Report, generator: Generator, staged: HybridModel, context: int) -> None:
    engine = generator.engine
    assert isinstance(engine, NativeEngine)
    batch = engine.limits.num_sequences
    fill(generator, batch, context, engine.limits.max_tokens - context)
    time_steps(generator, WARMUP_STEPS)
    step_ms = time_steps(generator, 32).median_ms
    pauses, calls = [], []
    for number in range(1, NUM_SWAPS + 1):
        put_staged(engine, staged, number)
        pause_ms, call_ms = _swap_once(generator)
        pauses.append(pause_ms)
        calls.append(call_ms)
    notes = (
        f"a step takes {step_ms:.2f} ms; of {NUM_SWAPS} swaps {', '.join(f'{each:.2f}' for each in pauses)}"
    )
    report.add(
        "longest time between two steps' tokens", max(pauses), "ms", at_most=step_ms + PAUSE_MS, notes=notes
    )
    report.add("swap() itself", max(calls), "ms", notes="on the host")
    report.require("a swap reaches the next tokens", engine.version == NUM_SWAPS)


def _swap_once(generator: Generator) -> tuple[float, float]:
    """Milliseconds between tokens around a swap, the longest; and of the call."""
    arrivals = []
    for _ in range(4):
        generator.step()
        arrivals.append(time.perf_counter())
    called = time.perf_counter()
    generator.engine.swap()
    returned = time.perf_counter()
    for _ in range(8):
        generator.step()
        arrivals.append(time.perf_counter())
    return 1e3 * max(after - before for before, after in pairwise(arrivals)), 1e3 * (returned - called)


def _answers(generator: Generator, options: Options) -> list[Stretch]:
    """What some new prompts get."""
    clear(generator)
    length, number, new = options.pick((700, 8, 64), quick=(700, 8, 64), tiny=(20, 2, 6))
    for index in range(number):
        prompt_ids = random_prompt(generator.engine.limits.vocabulary_size, length, seed=1000 + index)
        generator.add(make_work(prompt_ids, index, [index], new))
    finished: dict[str, Stretch] = {}
    while not generator.is_idle:
        finished |= {sample.sample_id: sample.response for sample in generator.step()}
    return [finished[name] for name in sorted(finished)]


def _compare(report: Report, options: Options, model: HybridModel, swapped: list[Stretch]) -> None:
    extent = Extent(batch=_batch(options), prompt_tokens=1024, new_tokens=SLACK_TOKENS)
    engine, _ = make_engine(model, options, extent)
    fresh = _answers(Generator(engine), options)
    equal = sum(
        each.ids == other.ids and each.logprobs == other.logprobs
        for each, other in zip(swapped, fresh, strict=False)  # none, where swapping failed
    )
    report.add(
        "answers equal to those of an engine made with the new weights",
        equal,
        at_least=len(fresh),
        notes=f"of {len(fresh)}, ids and log-probs in all bits",
    )
    report.require("answers after a swap are the new weights'", equal == len(fresh) > 0)
