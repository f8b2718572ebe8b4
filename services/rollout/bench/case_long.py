"""One prompt of a million tokens, and what is decoded behind it."""

# ruff: noqa: INP001
from __future__ import annotations

import time

import paths  # noqa: F401
from meters import peak_gib, reset_peak, synchronize, time_steps
from options import Options
from report import Report
from stage import Extent, make_engine, make_model, make_work, random_prompt

from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.generation.generator import Generator

MILLION = 1_000_000


def long(options: Options) -> Report:
    """Prefill in pieces, then decode."""
    report = Report("long", options.device)
    num_prompt = options.tokens or options.pick(MILLION, quick=65_536, tiny=700)
    num_new = options.pick(1024, quick=256, tiny=8)
    model = make_model(options, positions=num_prompt + num_new)
    extent = Extent(batch=1, prompt_tokens=num_prompt, new_tokens=num_new)
    engine, words = make_engine(model, options, extent)
    report.say(f"plan: {words}")
    report.guard(f"{num_prompt}", lambda: _rows(report, options, engine, num_prompt, num_new))
    return report


def _rows(report: Report, options: Options, engine: NativeEngine, num_prompt: int, num_new: int) -> None:
    generator = Generator(engine)
    prompt_ids = random_prompt(engine.limits.vocabulary_size, num_prompt, seed=0)
    generator.add(make_work(prompt_ids, 0, [0], num_new))
    synchronize()
    reset_peak()
    started = time.perf_counter()
    while not generator.num_tokens:
        generator.step()
    prefill_s = time.perf_counter() - started
    label = f"prompt of {num_prompt:,}"
    report.add(
        f"{label}: first token", prefill_s, "s", notes=f"{num_prompt / prefill_s:,.0f} tokens/s prefilled"
    )
    window = time_steps(generator, num_new - 1)
    report.require(f"{num_new} tokens were drawn", generator.is_idle and generator.num_tokens == num_new)
    report.add(
        f"{label}: decoded after it",
        window.tokens_per_s,
        "tokens/s",
        notes=f"{window.median_ms:.2f} ms a step",
    )
    report.add(f"{label}: peak memory", peak_gib(options.device), "GiB", notes="weights and caches included")
