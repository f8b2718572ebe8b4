"""A plan as tables on a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.output import print_json
from forklight_model.planning.assumptions import (
    PAPER_DAYS,
    PAPER_DOLLARS,
    PAPER_GPUS,
    Assumption,
    list_assumptions,
)
from forklight_model.planning.chosen import PAPER_MODEL
from forklight_model.planning.counts import count_parameters
from forklight_model.planning.verdict import list_gaps

if TYPE_CHECKING:
    from forklight_model.planning.plan import Plan
    from forklight_model.planning.verdict import Misfit

GIGA, DAY_S = 1e9, 86_400.0


def print_plan(plan: Plan, misfits: Sequence[Misfit]) -> None:
    """Tables, then the verdict, then what all of it rests on."""
    sections = (
        ("", _head(plan)),
        ("memory of a trainer GPU", _train_memory(plan)),
        ("memory of a rollout GPU", _pod_memory(plan)),
        ("training", _training(plan)),
        ("traffic, received by a trainer GPU for one pack", _traffic(plan)),
        ("rollout", _rollout(plan)),
        ("the run", _run(plan)),
        ("against the paper", _paper(plan)),
        ("taken for granted, not built yet", [("", gap) for gap in list_gaps(plan)]),
    )
    for title, rows in sections:
        _print_rows(title, list(rows))
    _print_assumptions(plan)
    click.echo("\nverdict")
    for misfit in misfits:
        click.echo(click.style(f"  {misfit}", fg="red"))
    if not misfits:
        click.echo(click.style("  fits", fg="green"))


def print_plan_json(plan: Plan, misfits: Sequence[Misfit]) -> None:
    """The whole plan; bytes, seconds and tokens."""
    print_json(
        {
            "fits": not misfits,
            "misfits": [asdict(misfit) for misfit in misfits],
            "not_built_yet": list_gaps(plan),
            "memory_limit_bytes": plan.limit_bytes,
            "trainer_gpu_bytes": plan.train_memory.total,
            "rollout_gpu_bytes": plan.pod_memory.total,
            "days": plan.times.run_s / DAY_S if plan.times else None,
            "assumptions": [asdict(each) for each in _assumptions(plan)],
            "plan": asdict(plan),
        }
    )


def _print_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    if not rows:
        return
    if title:
        click.echo(f"\n{title}")
    for name, text in rows:
        click.echo(f"  {name:<36}{text}" if name else f"  {text}")


def _head(plan: Plan) -> Iterator[tuple[str, str]]:
    request, train, rollout = plan.request, plan.train, plan.rollout
    counts = count_parameters(request.config)
    yield (
        "model",
        f"{request.model}: {counts.total / 1e9:.2f} B parameters, {counts.experts / 1e9:.2f} B in experts",
    )
    yield "GPUs", f"{request.gpus} x {request.gpu.name}"
    yield (
        "trainer",
        f"{_many(train.gpus, 'GPU')}: ZeRO-{train.zero}, expert parallel {train.expert_parallel}, sequence "
        f"parallel {train.sequence_parallel}; computed again: {train.recompute}",
    )
    shared = ", on the trainer's GPUs in turn" if rollout.is_shared else ""
    yield "rollout", f"{_many(rollout.pods, 'pod')} of {_many(rollout.gpus_per_pod, 'GPU')}{shared}"


def _train_memory(plan: Plan) -> Iterator[tuple[str, str]]:
    yield from ((name, _gb(part)) for name, part in plan.train_memory.parts().items())
    yield "in all", f"{_gb(plan.train_memory.total)} of {_gb(plan.limit_bytes)} that may be planned"


def _pod_memory(plan: Plan) -> Iterator[tuple[str, str]]:
    pod = plan.pod_memory
    yield from ((name, _gb(part)) for name, part in pod.parts().items())
    beside = f" beside the trainer's {_gb(plan.train_memory.total)}" if plan.rollout.is_shared else ""
    yield "in all", f"{_gb(pod.total)}{beside} of {_gb(plan.limit_bytes)}"
    yield "sequences of the whole window a pod", f"{pod.num_longest}"


def _training(plan: Plan) -> Iterator[tuple[str, str]]:
    time, whole, lengths = plan.train_time, plan.whole_pack, plan.lengths
    yield (
        "lengths",
        f"p50 {_count(lengths.p50)}, p99 {_count(lengths.p99)}, mean {_count(lengths.mean)} tokens; packs of "
        f"{_count(plan.request.pack_tokens)}",
    )
    yield "throughput", f"{_count(time.tokens_per_s)} tokens/s, utilisation {time.utilisation:.0%}"
    yield "throughput, one sequence a pack", f"{_count(whole.tokens_per_s)} tokens/s"
    yield (
        "one pack",
        f"{_s(time.total_s)}: products {_s(time.products_s)}, softmax attention {_s(time.attention_s)}, "
        f"memory-bound {_s(time.memory_s)}, exposed traffic {_s(time.exposed_s)}",
    )
    if plan.times:
        updates = plan.request.workload.updates
        yield "one optimizer step", f"{_s(plan.times.train_s / updates)}, {updates:.0f} a batch"


def _traffic(plan: Plan) -> Iterator[tuple[str, str]]:
    traffic = plan.train_time.traffic
    if plan.train.is_one_gpu:
        return
    yield "all-to-all of experts", f"{_gb(traffic.tokens_bytes)}, {_s(traffic.tokens_s)}"
    yield "all-to-all of sequence parallel", f"{_gb(traffic.heads_bytes)}, {_s(traffic.heads_s)}"
    yield "ZeRO, dense", f"{_gb(traffic.dense_bytes)}, {_s(traffic.dense_s)}, mostly hidden"
    yield "ZeRO, experts", f"{_gb(traffic.expert_bytes)}, {_s(traffic.expert_s)}, mostly hidden"


def _rollout(plan: Plan) -> Iterator[tuple[str, str]]:
    step = plan.decode
    if step is None:
        yield "decode", "not one sequence fits"
        return
    context = _count(plan.lengths.decode_context)
    yield (
        "one decode step",
        f"{_s(step.total_s)} for {plan.pod_memory.num_sequences} sequences at {context} tokens: memory "
        f"{_s(step.memory_s)}, products {_s(step.products_s)}, launches {_s(step.launch_s)}, messages "
        f"{_s(step.messages_s)}",
    )
    each = plan.decode_tokens_per_s / plan.rollout.gpus
    yield "throughput", f"{_count(plan.decode_tokens_per_s)} tokens/s, {_count(each)} a GPU"


def _run(plan: Plan) -> Iterator[tuple[str, str]]:
    times, workload, gpu = plan.times, plan.request.workload, plan.request.gpu
    yield "weights of a version", f"{_gb(plan.weight_bytes)}, {_gb(plan.pod_gpu_bytes)} a rollout GPU"
    yield "a checkpoint", _gb(plan.checkpoint_bytes)
    if times is None:
        return
    how = "in turn" if plan.rollout.is_shared else "side by side"
    yield (
        "a batch",
        f"{workload.groups * workload.group_size:.0f} samples, {_count(times.tokens_per_batch)} tokens",
    )
    yield (
        "a batch takes",
        f"{_s(times.batch_s)}: train {_s(times.train_s)}, generate {_s(times.generate_s)}, weights "
        f"{_s(times.sync_s)}, {how}",
    )
    yield (
        "all batches",
        f"{workload.batches:.0f}, {_count(times.trained_tokens)} tokens: {times.run_s / DAY_S:.1f} days, "
        f"{_count(times.gpu_hours)} GPU hours",
    )
    yield (
        "cost",
        f"${times.dollars:,.0f} at ${gpu.price_per_hour:.2f} a GPU and hour ({gpu.price_source}; --price)",
    )


def _paper(plan: Plan) -> Iterator[tuple[str, str]]:
    request, times = plan.request, plan.times
    if (request.model, request.gpu.name, request.gpus) != (PAPER_MODEL, "h800", PAPER_GPUS) or not times:
        return
    days = times.run_s / DAY_S
    yield (
        "the paper",
        f"{PAPER_GPUS} H800, three weeks, ${PAPER_DOLLARS:,.0f}; steps and batch are not published",
    )
    yield (
        "this plan over the paper",
        f"{days / PAPER_DAYS:.1f} x its days, {times.dollars / PAPER_DOLLARS:.1f} x its cost",
    )
    batches = PAPER_DAYS * DAY_S / times.batch_s
    yield "three weeks hold", f"{batches:.0f} such batches, {_count(batches * times.tokens_per_batch)} tokens"


def _assumptions(plan: Plan) -> Sequence[Assumption]:
    return list_assumptions(plan.request.rates, plan.request.workload, plan.request.sources)


def _print_assumptions(plan: Plan) -> None:
    click.echo("\nassumptions; --assume NAME=VALUE replaces one")
    for each in _assumptions(plan):
        click.echo(f"  {each.name:<20}{each.value:>10g}  {each.unit:<38} {each.source}")


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GIGA:.1f} GB"


def _s(seconds: float) -> str:
    """Three digits, in the unit that shows them."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:,.1f} s"


def _count(number: float) -> str:
    """Three digits and a letter."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"
