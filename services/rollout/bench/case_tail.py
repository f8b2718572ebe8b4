"""The lengths of real responses: many short, a few very long, and how busy the GPU stays to the end."""

# ruff: noqa: INP001
from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import paths  # noqa: F401
from meters import BusyMeter, peak_gib, reset_peak, synchronize
from options import Options
from report import Report
from stage import Extent, end_by_seed, make_engine, make_model, make_work, random_prompt

from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.generation.generator import Generator

P50_TOKENS, P99_TOKENS, WINDOW_TOKENS = 4096, 65_536, 81_920
NORMAL_P99 = 2.326
"""Of the standard normal distribution."""
GROUP_SAMPLES = 16
TAIL_SHARE = 0.05


@dataclass(slots=True, kw_only=True)
class Course:
    """How a batch went. Seconds since its start."""

    num_samples: int
    tail_at_s: float = 0.0  # when only TAIL_SHARE of the samples were left
    busy_s: tuple[float, float] = (0.0, 0.0)  # of the device until then, at least and at most
    tail_tokens: int = 0  # drawn after that
    end_s: float = 0.0
    num_tokens: int = 0


def tail(options: Options) -> Report:
    """Groups of 16 with log-normal lengths, all wanted at once."""
    report = Report("tail", options.device)
    num_samples = options.batch or options.pick(256, quick=256, tiny=8)
    scale = options.scale or options.pick(1.0, quick=0.1, tiny=0.004)
    prompt_tokens = options.pick(1024, quick=1024, tiny=20)
    lengths = draw_lengths(num_samples, scale)
    extent = Extent(batch=num_samples, prompt_tokens=prompt_tokens, new_tokens=max(lengths))
    report.note = (
        f"lengths p50 {np.median(lengths):,.0f}, p99 {np.quantile(lengths, 0.99):,.0f}, "
        f"most {max(lengths):,}, in all {sum(lengths):,}; prompts of {prompt_tokens}"
    )
    engine, words = make_engine(make_model(options), options, extent)
    report.say(f"{report.note}\n  plan: {words}")
    report.guard("all", lambda: _rows(report, options, engine, prompt_tokens, lengths))
    return report


def draw_lengths(number: int, scale: float) -> list[int]:
    """p50 4K, p99 64K, at most 80K, times the scale."""
    sigma = math.log(P99_TOKENS / P50_TOKENS) / NORMAL_P99
    drawn = np.random.default_rng(5).lognormal(math.log(P50_TOKENS), sigma, size=number)
    return [max(2, int(length * scale)) for length in np.minimum(drawn, WINDOW_TOKENS)]


def _rows(
    report: Report, options: Options, engine: NativeEngine, prompt_tokens: int, lengths: list[int]
) -> None:
    generator = Generator(engine)
    end_by_seed(engine, dict(enumerate(lengths)))
    for group, first in enumerate(range(0, len(lengths), GROUP_SAMPLES)):
        seeds = range(first, min(first + GROUP_SAMPLES, len(lengths)))
        prompt_ids = random_prompt(engine.limits.vocabulary_size, prompt_tokens, seed=group)
        generator.add(make_work(prompt_ids, group, seeds, max(lengths)))
    reset_peak()
    course = _run(generator, engine, len(lengths))
    report.require("every sample has its own length", course.num_tokens == sum(lengths))
    before = course.num_tokens - course.tail_tokens
    label = f"until {TAIL_SHARE:.0%} of {len(lengths)} samples remain"
    report.add(
        "all", course.num_tokens / course.end_s, "tokens/s", notes=f"{course.end_s:.1f} s, prefill included"
    )
    report.add(label, before / course.tail_at_s, "tokens/s", notes=f"{course.tail_at_s:.1f} s")
    least, most = (busy / course.tail_at_s for busy in course.busy_s)
    report.add(
        f"GPU busy {label}",
        least,
        notes=f"graphs and prefill alone; at most {min(1.0, most):.3f} with what draws",
    )
    tail_s = course.end_s - course.tail_at_s
    report.add(
        "the last samples",
        tail_s,
        "s",
        notes=f"{course.tail_tokens:,} tokens, {tail_s / course.end_s:.0%} of the time",
    )
    report.add("preempted", engine.num_preempted, "times", notes=f"batch of {engine.limits.num_sequences}")
    report.add("peak memory", peak_gib(options.device), "GiB")


def _run(generator: Generator, engine: NativeEngine, num_samples: int) -> Course:
    course, left = Course(num_samples=num_samples), math.ceil(TAIL_SHARE * num_samples)
    num_tail_at, started = 0, time.perf_counter()
    with BusyMeter(engine) as busy:
        while not generator.is_idle:
            generator.step()
            if not course.tail_at_s and generator.num_running + generator.num_waiting <= left:
                synchronize()
                course.tail_at_s, course.busy_s = time.perf_counter() - started, busy.read()
                num_tail_at = generator.num_tokens
    synchronize()
    course.end_s, course.num_tokens = time.perf_counter() - started, generator.num_tokens
    course.tail_tokens = course.num_tokens - num_tail_at
    return course
