"""What a step costs beside the GPU's work, and where the host spends it."""

# ruff: noqa: INP001, T201
from __future__ import annotations

import cProfile
import pstats

import paths  # noqa: F401
from meters import device_ms, graph_ms, time_steps
from options import Options
from report import Report
from stage import SLACK_TOKENS, Extent, fill, make_engine, make_model

from forklight_rollout.generation.generator import Generator

OVERHEAD_SHARE = 0.05
WARMUP_STEPS, METER_STEPS = 16, 16
NUM_SHOWN = 15


def overhead(options: Options) -> Report:
    """A large batch at a short context: the most host work for the least GPU work."""
    report = Report("overhead", options.device)
    batch = options.batch or options.pick(256, quick=256, tiny=8)
    num_steps = options.steps or options.pick(512, quick=128, tiny=16)
    context = (options.contexts or options.pick((1024,), quick=(1024,), tiny=(40,)))[0]
    new_tokens = WARMUP_STEPS + 2 * METER_STEPS + num_steps + num_steps // 4 + SLACK_TOKENS
    extent = Extent(batch=batch, prompt_tokens=context, new_tokens=new_tokens)
    engine, words = make_engine(make_model(options), options, extent)
    report.say(f"plan: {words}")
    generator = Generator(engine)
    report.guard("steps", lambda: _rows(report, generator, context, num_steps))
    report.guard("profile", lambda: _profile(generator, max(4, num_steps // 4)))
    return report


def _rows(report: Report, generator: Generator, context: int, num_steps: int) -> None:
    batch = generator.engine.limits.num_sequences
    fill(generator, batch, context, generator.engine.limits.max_tokens - context)
    time_steps(generator, WARMUP_STEPS)
    window = time_steps(generator, num_steps)
    on_device, in_graph = device_ms(generator, METER_STEPS), graph_ms(generator, METER_STEPS)
    label = f"{batch} x {context:,}"
    notes = f"median {window.median_ms:.3f}, {window.tokens_per_s:,.0f} tokens/s"
    report.add(f"step, {label}: wall", window.mean_ms, "ms", notes=notes)
    report.add(f"step, {label}: GPU", on_device, "ms", notes=f"its graph {in_graph or 0:.3f}")
    report.add(
        f"step, {label}: host, beside waiting", window.host_ms, "ms", notes="it overlaps the GPU's work"
    )
    if on_device:
        share = max(0.0, window.mean_ms / on_device - 1)
        report.add(f"overhead, {label}: (wall - GPU) / GPU", share, at_most=OVERHEAD_SHARE)


def _profile(generator: Generator, num_steps: int) -> None:
    """Python's functions by their own time; a profiled step is slower than another."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(num_steps):
        generator.step()
    profile.disable()
    stats = pstats.Stats(profile)
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:NUM_SHOWN]  # type: ignore[attr-defined]
    print(f"  host, us a step over {num_steps} profiled steps: own time, with callees, calls, function")
    for (file, line, name), (_, calls, own_s, all_s, _) in rows:
        where = f"{'/'.join(file.split('/')[-2:])}:{line} {name}" if line else name
        own, total = (1e6 * seconds / num_steps for seconds in (own_s, all_s))
        print(f"  {own:8.1f} {total:8.1f} {calls / num_steps:7.1f}  {where}", flush=True)
