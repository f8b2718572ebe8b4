"""What does not fit and what to change; what the services cannot do yet although it would fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from forklight_core.errors import ConfigError
from forklight_model.planning.hardware import GPUS
from forklight_model.planning.plan import Plan, make_plan
from forklight_model.planning.request import Request

MOST_TIMES = 64
GIGA = 1e9
MOST_TRIED_GPUS = 4
"""Of one trainer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """One part that exceeds a GPU, and changes of which each alone makes the run fit."""

    what: str
    changes: Sequence[str]

    def __str__(self) -> str:
        change = " or ".join(self.changes) or "the model is too large for all that was tried"
        return f"does not fit: {self.what}; change: {change}"


def find_misfits(plan: Plan) -> Sequence[Misfit]:
    """Empty where everything fits."""
    if plan.fits:
        return []
    changes = list(_find_changes(plan.request))
    return [Misfit(what=what, changes=changes) for what in _what_exceeds(plan)]


def _what_exceeds(plan: Plan) -> Iterator[str]:
    name, limit = plan.request.gpu.name, plan.limit_bytes / GIGA
    if not plan.trainer_fits:
        parts = plan.train_memory.parts()
        largest = max(parts, key=lambda part: parts[part])
        yield (
            f"a trainer GPU needs {plan.train_memory.total / GIGA:.1f} GB of the {limit:.1f} GB of an {name} "
            f"that may be planned, {parts[largest] / GIGA:.1f} of them {largest}"
        )
    elif not plan.rollout_fits:
        pod, beside = plan.pod_memory, ""
        if plan.rollout.is_shared:
            beside = f" beside the trainer's {plan.train_memory.total / GIGA:.1f} GB"
        yield (
            f"a rollout GPU of pods of {plan.rollout.gpus_per_pod} needs {pod.total / GIGA:.1f} GB for one "
            f"sequence of the whole window{beside}, of the {limit:.1f} GB of an {name} that may be planned"
        )


def _find_changes(request: Request) -> Iterator[str]:
    """The mildest change of each kind that makes it fit, all else as it was asked for."""
    free = replace(request, zero=3, expert_parallel=None, sequence_parallel=None, rollout_share=None)
    free = replace(free, rollout_pod=None)
    kinds = (_layouts(request, free), _more_gpus(request), _larger_gpus(request), _shorter_windows(request))
    found = [text for kind in kinds if (text := _first_that_fits(kind))]
    if not found and request != free and (text := _first_that_fits(_more_gpus(free))):
        found = [f"leave out all options of the layout, and {text}"]
    yield from found


def _first_that_fits(kind: Iterator[tuple[str, Request]]) -> str:
    return next((text for text, tried in kind if _does_fit(tried)), "")


def _does_fit(request: Request) -> bool:
    try:
        return make_plan(request).fits
    except ConfigError:
        return False


def _layouts(request: Request, free: Request) -> Iterator[tuple[str, Request]]:
    if request.zero != 3:
        yield "--zero 3", replace(request, zero=3)
    for size in (16, 32):
        text = f"--expert-parallel {size}" + ("" if request.zero == 3 else " --zero 3")
        yield text, replace(request, expert_parallel=size, zero=3)
    if request.sequence_parallel:
        yield "leave out --sequence-parallel", replace(request, sequence_parallel=None)
    if request.rollout_pod:
        yield "leave out --rollout-pod", replace(request, rollout_pod=None)
    if request.rollout_share is not None:
        yield "leave out --rollout-share", replace(request, rollout_share=None, rollout_pod=None)
    if request != free:
        yield "leave out all options of the layout", free


def _more_gpus(request: Request) -> Iterator[tuple[str, Request]]:
    times = 2
    while times <= MOST_TIMES:
        yield f"--gpus {request.gpus * times}", replace(request, gpus=request.gpus * times)
        times *= 2


def _larger_gpus(request: Request) -> Iterator[tuple[str, Request]]:
    for gpu in sorted(GPUS.values(), key=lambda each: each.memory_bytes):
        if gpu.memory_bytes > request.gpu.memory_bytes:
            yield f"--gpu {gpu.name}", replace(request, gpu=gpu)


def _shorter_windows(request: Request) -> Iterator[tuple[str, Request]]:
    window = int(request.workload.window)
    for part in (2, 4, 8):
        workload = replace(request.workload, window=window // part, pack_tokens=0)
        yield f"--window {window // part}", replace(request, workload=workload)


def list_gaps(plan: Plan) -> Sequence[str]:
    """What this plan takes for granted that the services do not do yet, or were never seen to do."""
    gaps, pod, key_heads = [], plan.rollout.gpus_per_pod, plan.request.config.num_key_value_heads
    if plan.train.gpus > MOST_TRIED_GPUS:
        gaps.append(f"a trainer over {plan.train.gpus} GPUs: it ran on {MOST_TRIED_GPUS} at most")
    if pod > 1 and key_heads % pod:
        gaps.append(f"pods of {pod} GPUs: the engine cuts {key_heads} key heads, it does not replicate them")
    if plan.request.rates.staged_copies < 1:
        gaps.append("new weights read into place: the engine loads them beside those in use")
    return gaps
