"""The control page in words: where the run stands, what can be asked, what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from forklight.v1 import buffer_pb2, trainer_pb2
from forklight_console.control.actions import Asked, read_step
from forklight_console.control.ports import ControlDesk
from forklight_console.ports import PodAnswer, RunView
from forklight_console.shown import format_moment, visible
from forklight_core.control_log import ControlLine, Outcome, read_lines
from forklight_core.errors import ForklightError

LINES_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """An action."""

    moment: str
    who: str
    action: str
    target: str
    reason: str
    outcome: str
    level: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPage:
    """What the template draws."""

    phase: str
    reason: str
    step: int
    num_dead_letters: int
    problem: str
    trainer: trainer_pb2.GetTrainerStatusReply | None
    trainer_problem: str
    checkpoints: Sequence[int]
    pods: Sequence[tuple[str, str]]
    log: Sequence[LogRow]
    log_problem: str


async def make_control_page(view: RunView, desk: ControlDesk, pods: Sequence[PodAnswer]) -> ControlPage:
    """Whatever answers; what does not says why."""
    (status, problem), (trainer, trainer_problem), (lines, log_problem) = await asyncio.gather(
        _status(view), _trainer(desk), asyncio.to_thread(_lines, desk)
    )
    phase = buffer_pb2.RunPhase.Name(status.phase).removeprefix("RUN_PHASE_").lower()
    steps = [] if trainer is None else [each for each in trainer.checkpoint_steps if each < trainer.step]
    return ControlPage(
        phase="unknown" if problem else phase,
        reason=visible(status.reason, most=400),
        step=status.step,
        num_dead_letters=status.num_dead_letters,
        problem=problem,
        trainer=trainer,
        trainer_problem=trainer_problem,
        checkpoints=list(reversed(steps)),
        pods=[(pod.name, _pod_state(pod)) for pod in pods],
        log=[make_log_row(line) for line in lines],
        log_problem=log_problem,
    )


def _pod_state(pod: PodAnswer) -> str:
    if pod.reply is None:
        return "no answer"
    return "draining" if pod.reply.draining else f"{pod.reply.num_running} running"


async def _status(view: RunView) -> tuple[buffer_pb2.GetStatusReply, str]:
    try:
        return await view.status(), ""
    except ForklightError as error:
        return buffer_pb2.GetStatusReply(), f"the buffer does not answer: {visible(str(error))}"


async def _trainer(desk: ControlDesk) -> tuple[trainer_pb2.GetTrainerStatusReply | None, str]:
    try:
        return await desk.doors.trainer(), ""
    except ForklightError as error:
        return None, f"the trainer does not answer: {visible(str(error))}"


def _lines(desk: ControlDesk) -> tuple[Sequence[ControlLine], str]:
    try:
        return read_lines(desk.run_folder, limit=LINES_SHOWN), ""
    except ForklightError as error:
        return [], visible(str(error))


async def make_way(desk: ControlDesk, asked: Asked) -> Sequence[str]:
    """What an action would do, as far as its door can say so before."""
    if asked.action != "rollback":
        return []
    way = await desk.doors.roll_back(read_step(asked.target), asked.reason, exact=True, dry_run=True)
    first, last = way.to_step + 1, way.from_step
    given_up = f"step {first}" if first == last else f"steps {first} to {last}"
    return [
        f"The run has done step {last} (version {way.from_version}).",
        f"It goes back to the checkpoint of step {way.to_step} (version {way.to_version}).",
        f"Given up: {given_up}, and the step under way if there is one. Their samples are learned again.",
    ]


def make_log_row(line: ControlLine) -> LogRow:
    """A line of the audit in words."""
    levels = {Outcome.DONE: "good", Outcome.FAILED: "bad", Outcome.ASKED: "warn"}
    return LogRow(
        moment=format_moment(line.at),
        who=visible(line.who, most=200),
        action=visible(line.action, most=60),
        target=visible(line.target, most=200),
        reason=visible(line.reason, most=600),
        outcome=line.outcome.value,
        level=levels[line.outcome],
        detail=visible(line.detail, most=600),
    )
