"""Decoding at some contexts (against peers and the bandwidth floor), while they grow, and with filters."""

# ruff: noqa: INP001
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import paths  # noqa: F401
from floor import StepBytes, count_step_bytes, floor_ms
from harness import copy_bytes_per_s
from meters import Window, device_ms, graph_ms, host_gib, peak_gib, reset_peak, synchronize, time_steps
from options import ANY_CONTEXT, Options
from peers import measure_peer
from report import Report
from stage import PLAIN, SLACK_TOKENS, Extent, clear, fill, make_engine, make_model

from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.generation.generator import Generator
from forklight_rollout.ports import DrawRules

FLOOR_SHARE = 0.7
GROWTH_FACTOR = 1.35
FLAT_FACTOR = 1.01
WARMUP_STEPS, METER_STEPS = 16, 16
LONGEST = 81_920
FILTERS = {
    "top_p 0.95": DrawRules(temperature=1.0, top_p=0.95),
    "top_k 50": DrawRules(temperature=1.0, top_k=50),
    "min_p 0.05": DrawRules(temperature=1.0, min_p=0.05),
    "all three": DrawRules(temperature=1.0, top_p=0.95, top_k=50, min_p=0.05),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Decoding at one context."""

    window: Window
    device_ms: float | None
    graph_ms: float | None
    step_bytes: StepBytes
    floor_ms: float | None

    def describe(self) -> str:
        parts = [f"wall {self.window.mean_ms:.2f} ms a step (median {self.window.median_ms:.2f})"]
        parts += [f"GPU {self.device_ms:.2f}"] if self.device_ms else []
        parts += [f"its graph {self.graph_ms:.2f}"] if self.graph_ms else []
        parts += [f"host {self.window.host_ms:.2f}", f"floor {self.floor_ms:.2f}"] if self.floor_ms else []
        return ", ".join(parts)


def decode(options: Options) -> Report:
    """Tokens a second at some contexts."""
    report = Report("decode", options.device, "every sequence has pages and states of its own")
    batch = options.batch or options.pick(64, quick=64, tiny=4)
    contexts = options.contexts or options.pick((2048, 16384, 81920), quick=(2048, 16384), tiny=(64, 300))
    if not options.vllm_rates:
        report.say("vLLM has no row: give --vllm-tokens-per-s what its own script measured on this GPU")
    rates: dict[int, float] = {}
    report.guard("peers", lambda: rates.update(measure_peer(report, options, batch, contexts)))
    generator = _stage(report, options, batch, max(contexts))
    for context in contexts:
        report.guard(f"{context}", partial(_decode_row, report, options, generator, context, rates))
    return report


def _decode_row(
    report: Report, options: Options, generator: Generator, context: int, rates: dict[int, float]
) -> None:
    batch = generator.engine.limits.num_sequences
    found = _measure(generator, batch, context, _num_steps(options))
    label, rate = f"{batch} x {context:,}", found.window.tokens_per_s
    report.add(f"ours, {label}", rate, "tokens/s", notes=found.describe())
    if found.floor_ms:
        share = found.floor_ms / found.window.mean_ms
        report.add(
            f"share of the bandwidth floor, {label}", share, at_least=FLOOR_SHARE, notes=str(found.step_bytes)
        )
    if context in rates:
        report.add(f"ours / transformers, {label}", rate / rates[context])
    vllm = options.vllm_rates.get(context) or options.vllm_rates.get(ANY_CONTEXT)
    if vllm:
        report.add(
            f"ours / vLLM, {label}", rate / vllm, notes=f"vLLM by its own script: {vllm:,.0f} tokens/s"
        )


def growth(options: Options) -> Report:
    """Time and memory while sequences grow: jumps to some lengths, then a run in one go."""
    report = Report("growth", options.device)
    batch = options.batch or options.pick(64, quick=64, tiny=4)
    contexts = options.contexts or options.pick(
        (2048, 16384, 40960, 81920), quick=(2048, 81920), tiny=(64, 300, 600)
    )
    num_steps = options.steps or options.pick(4096, quick=512, tiny=24)
    generator = _stage(report, options, batch, max(contexts))
    found: dict[int, Measured] = {}

    def measure(context: int) -> None:
        found[context] = _measure(generator, batch, context, _num_steps(options))

    for context in contexts:
        report.guard(f"{context}", partial(measure, context))
    _growth_rows(report, batch, found)
    report.guard("in one go", lambda: _run_on(report, options, generator, num_steps))
    return report


def _growth_rows(report: Report, batch: int, found: dict[int, Measured]) -> None:
    for context, each in found.items():
        report.add(f"step, {batch} x {context:,}", each.window.mean_ms, "ms", notes=each.describe())
    if len(found) < 2:
        return
    first, last = min(found), max(found)
    notes = ""
    floors = [found[context].floor_ms for context in (first, last)]
    if floors[0] and floors[1]:
        notes = f"of the floors {floors[1] / floors[0]:.2f}: keys are read at every step"
    times = found[last].window.mean_ms / found[first].window.mean_ms
    what = f"time a token at {last:,} / at {first:,}"
    report.add(what, times, at_most=GROWTH_FACTOR if last >= 40_960 else None, notes=notes)


def _run_on(report: Report, options: Options, generator: Generator, num_steps: int) -> None:
    """From a short context on, without a jump."""
    batch, start = generator.engine.limits.num_sequences, options.pick(256, quick=256, tiny=32)
    num_steps = min(num_steps, generator.engine.limits.max_tokens - start - SLACK_TOKENS)
    clear(generator)
    fill(generator, batch, start, generator.engine.limits.max_tokens - start)
    window_steps = max(1, min(2048, num_steps // 2))
    reset_peak()
    first, host_before = time_steps(generator, window_steps), host_gib()
    synchronize()
    early = peak_gib(options.device)
    reset_peak()
    rest = time_steps(generator, num_steps - window_steps)
    synchronize()
    late = peak_gib(options.device)
    label = f"{batch} sequences, {num_steps:,} steps in one go"
    report.add(f"{label}: peak memory at the end / after {window_steps:,}", late / early, at_most=FLAT_FACTOR,
               notes=f"{early:.2f} GiB, then {late:.2f}")  # fmt: skip
    tail = rest.seconds[-window_steps:]
    report.add(f"{label}: step at the end / at the beginning", sum(tail) / len(tail) * 1e3 / first.mean_ms,
               notes=f"{first.mean_ms:.2f} ms at first, longest {max(rest.seconds) * 1e3:.1f}")  # fmt: skip
    grown = host_gib() - host_before
    report.add(f"{label}: host memory grew by", grown * 1024, "MiB", notes="drafts hold 13 bytes a token")
    total = first.num_tokens + rest.num_tokens
    report.add(f"{label}: all", total / (first.total_s + rest.total_s), "tokens/s")


def filters(options: Options) -> Report:
    """What it costs to keep tokens out of the draw."""
    report = Report("filters", options.device)
    batch = options.batch or options.pick(64, quick=64, tiny=4)
    context = (options.contexts or options.pick((2048,), quick=(2048,), tiny=(64,)))[0]
    generator = _stage(report, options, batch, context)
    plain = _measure(generator, batch, context, _num_steps(options))
    report.add(f"no filter, {batch} x {context:,}", plain.window.mean_ms, "ms a step", notes=plain.describe())
    chosen = FILTERS if not options.is_quick else {"top_p 0.95": FILTERS["top_p 0.95"]}
    for name, draw in chosen.items():
        report.guard(name, partial(_filter_row, report, options, generator, (name, draw), plain))
    return report


def _filter_row(
    report: Report, options: Options, generator: Generator, named: tuple[str, DrawRules], plain: Measured
) -> None:
    name, draw = named
    batch = generator.engine.limits.num_sequences
    context = generator.engine.limits.max_tokens - _new_tokens(options)
    found = _measure(generator, batch, context, _num_steps(options), draw)
    times = found.window.mean_ms / plain.window.mean_ms
    report.add(f"{name} / no filter", times, notes=found.describe())


def _stage(report: Report, options: Options, batch: int, context: int) -> Generator:
    if options.device == "cuda":
        copy_bytes_per_s()  # it needs room of its own: before the caches take all
    model = make_model(options)
    extent = Extent(batch=batch, prompt_tokens=context, new_tokens=_new_tokens(options))
    engine, words = make_engine(model, options, extent)
    report.say(f"plan: {words}")
    return Generator(engine)


def _num_steps(options: Options) -> int:
    """A multiple of 64, so that each row closes a chunk as often as any other."""
    return options.pick(256, quick=128, tiny=8)


def _new_tokens(options: Options) -> int:
    return WARMUP_STEPS + 2 * METER_STEPS + _num_steps(options) + SLACK_TOKENS


def _measure(
    generator: Generator, batch: int, context: int, num_steps: int, draw: DrawRules = PLAIN
) -> Measured:
    engine = generator.engine
    assert isinstance(engine, NativeEngine)
    clear(generator)
    fill(generator, batch, context, engine.limits.max_tokens - context, draw)
    time_steps(generator, min(WARMUP_STEPS, num_steps))
    window = time_steps(generator, num_steps)
    on_device, in_graph = device_ms(generator, METER_STEPS), graph_ms(generator, METER_STEPS)
    step_bytes = count_step_bytes(engine)
    return Measured(
        window=window,
        device_ms=on_device,
        graph_ms=in_graph,
        step_bytes=step_bytes,
        floor_ms=floor_ms(step_bytes),
    )
