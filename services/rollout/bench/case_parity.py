"""Same seed, same tokens: whatever runs beside a sample, and in the trainer's own forward pass."""

# ruff: noqa: INP001
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import paths  # noqa: F401
from options import Options
from report import Report
from stage import Extent, clear, make_engine, make_model, make_work, random_prompt

from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.generation.draft import Stretch
from forklight_rollout.generation.generator import Generator

SEED = 77
WATCHED = "bench/g00000000/s077"
Beside = Callable[[Generator, int], None]


def parity(options: Options) -> Report:
    """One sample, watched in different company."""
    size = options.size if options.device == "cpu" else "mini"
    report = Report(
        "parity", options.device, f"{size}; a prompt in two pieces, over borders of chunks and pages"
    )
    length, new, batch, other = options.pick(
        (1500, 600, 64, 6000), quick=(1500, 200, 64, 3000), tiny=(70, 12, 4, 90)
    )
    model = make_model(options, size=size)
    prompt_ids = random_prompt(model.config.vocab_size, length, seed=1)
    extent = Extent(batch=batch, prompt_tokens=other, new_tokens=new + 64)
    engine, words = make_engine(model, options, extent)
    report.say(f"plan: {words}\n  {engine.numeric_mode.reason}")
    single, _ = make_engine(model, options, Extent(batch=1, prompt_tokens=length, new_tokens=new + 64))
    found: dict[str, Stretch] = {}
    many, one = Generator(engine), Generator(single)
    scenes: dict[str, tuple[Generator, Beside]] = {
        "alone": (many, _nobody),
        "alone, its prompt still there": (many, _nobody),
        f"among {batch}": (many, _crowd(batch, length, new)),
        f"beside prefill of {batch - 1} x {other:,}": (many, _late(batch, other, new)),
        "in an engine for one": (one, _nobody),
    }

    def watch(name: str) -> None:
        generator, beside = scenes[name]
        found[name] = _watch(generator, prompt_ids, new, beside, keeps="still" in name)

    for name in scenes:
        report.guard(name, partial(watch, name))
    _rows(report, engine, found, prompt_ids)
    return report


def _watch(
    generator: Generator, prompt_ids: tuple[int, ...], new: int, beside: Beside, *, keeps: bool
) -> Stretch:
    """The watched sample's response while others come and go."""
    if not keeps:
        clear(generator)
    generator.add(make_work(prompt_ids, 0, [SEED], new))
    found: Stretch | None = None
    num_steps = 0
    while found is None:
        beside(generator, num_steps)
        num_steps += 1
        found = next((each.response for each in generator.step() if each.sample_id == WATCHED), None)
    return found


def _rows(
    report: Report, engine: NativeEngine, found: dict[str, Stretch], prompt_ids: tuple[int, ...]
) -> None:
    alone, is_demanded = found["alone"], engine.numeric_mode.is_parity
    mode = "parity mode" if is_demanded else "tolerance mode: sums differ in the last bit"
    for name, each in list(found.items())[1:]:
        same = sum(
            pair == other
            for pair, other in zip(
                zip(alone.ids, alone.logprobs, alone.raw_logprobs, strict=True),
                zip(each.ids, each.logprobs, each.raw_logprobs, strict=True),
                strict=True,
            )
        )
        _add(report, f"{name}: tokens and log-probs as alone", same, len(alone.ids), is_demanded, mode)
    scores = engine.score([*prompt_ids, *alone.ids])[len(prompt_ids) - 1 :]
    same = sum(score == raw for score, raw in zip(scores, alone.raw_logprobs, strict=True))
    _add(report, "the trainer's pass: log-probs as decoded", same, len(alone.ids), is_demanded, mode)


def _add(report: Report, what: str, same: int, number: int, is_demanded: bool, notes: str) -> None:
    report.add(what, same, at_least=number if is_demanded else None, notes=f"of {number}; {notes}")
    report.require(what, same == number or not is_demanded)


def _nobody(_: Generator, __: int) -> None:
    return None


def _crowd(batch: int, length: int, new: int) -> Beside:
    """Everybody else from the start, at other lengths."""

    def join(generator: Generator, num_steps: int) -> None:
        if num_steps == 0:
            for number in range(1, batch):
                prompt_ids = random_prompt(generator.engine.limits.vocabulary_size, length - number, number)
                generator.add(make_work(prompt_ids, number, [number], new + 32))

    return join


def _late(batch: int, length: int, new: int) -> Beside:
    """Long prompts, two at a time while the sample is decoded."""

    def join(generator: Generator, num_steps: int) -> None:
        number = num_steps // 4
        if num_steps % 4 == 3 and number + 1 < batch:
            prompt_ids = random_prompt(generator.engine.limits.vocabulary_size, length, 500 + number)
            generator.add(make_work(prompt_ids, 1 + number, [number], new // 2))

    return join
