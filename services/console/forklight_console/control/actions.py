"""What can be asked of a run: each action with its words, what it needs, and the call that does it."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from forklight.v1 import buffer_pb2, types_pb2
from forklight_console.control.ports import ControlDesk, Doors
from forklight_console.ports import PodAnswer
from forklight_core.control_log import begin_line, end_line
from forklight_core.errors import ForklightError, InvalidInputError

LONGEST_DRAIN_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody wants done."""

    action: str
    reason: str
    target: str
    """A step, a pod's name, ids of letters; empty where there is no choice."""
    who: str
    deadline_s: float = 60.0
    pods: Sequence[PodAnswer] = ()


Act = Callable[[Doors, Asked], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """`effect` is what a person is told before."""

    title: str
    effect: str
    act: Act
    is_grave: bool = False
    has_event: bool = True
    """Whether it is told to the run as an event by us; going back tells by itself."""
    phase: int = 0


def _phase(phase: buffer_pb2.RunPhase) -> Act:
    async def act(doors: Doors, asked: Asked) -> str:
        await doors.set_phase(phase, asked.reason)
        return f"the run is {buffer_pb2.RunPhase.Name(phase).removeprefix('RUN_PHASE_').lower()}"

    return act


async def _checkpoint(doors: Doors, asked: Asked) -> str:
    reply = await doors.save_checkpoint(asked.reason)
    if reply.durable_step >= reply.step:
        return f"step {reply.step} has a checkpoint; a step under way gets one when it is done"
    return f"steps {reply.durable_step + 1} to {reply.step} are written before the next step begins"


async def _roll_back(doors: Doors, asked: Asked) -> str:
    reply = await doors.roll_back(read_step(asked.target), asked.reason, exact=True, dry_run=False)
    return f"accepted: from step {reply.from_step} to step {reply.to_step}, version {reply.to_version}"


async def _drain_pod(doors: Doors, asked: Asked) -> str:
    address = next((pod.address for pod in asked.pods if pod.name == asked.target), "")
    if not address:
        raise InvalidInputError(f"no rollout pod is called {asked.target[:100]!r}: look at the fleet")
    reply = await doors.drain_pod(address, asked.deadline_s)
    return f"{asked.target} finished {reply.num_finished} samples and handed {reply.num_released} back"


async def _redrive(doors: Doors, asked: Asked) -> str:
    num = await doors.redrive([each for each in asked.target.split(",") if each])
    return f"{num} new groups for the prompts of dead letters"


ACTIONS: Mapping[str, Action] = {
    "pause": Action(
        title="Pause",
        effect="Nothing new is opened or leased until somebody resumes the run. What was begun is finished.",
        act=_phase(buffer_pb2.RUN_PHASE_PAUSED),
    ),
    "resume": Action(
        title="Resume",
        effect="Groups are opened and batches leased again.",
        act=_phase(buffer_pb2.RUN_PHASE_RUNNING),
    ),
    "drain": Action(
        title="Drain the run",
        effect="No new groups; what is open may finish and be learned from. Resume lets it go on.",
        act=_phase(buffer_pb2.RUN_PHASE_DRAINING),
    ),
    "finish": Action(
        title="Finish",
        effect="The run ends: open samples are cancelled, the trainer writes what it has and stops.",
        act=_phase(buffer_pb2.RUN_PHASE_FINISHED),
        is_grave=True,
    ),
    "checkpoint": Action(
        title="Checkpoint now",
        effect="The trainer writes a checkpoint before its next step, and commits the steps it holds.",
        act=_checkpoint,
    ),
    "rollback": Action(
        title="Roll back",
        effect="What was learned since the checkpoint is given up; its samples are learned again.",
        act=_roll_back,
        is_grave=True,
        has_event=False,
    ),
    "drain-pod": Action(
        title="Drain a pod",
        effect="Until it is started anew the pod takes no work; what it cannot finish in time goes back.",
        act=_drain_pod,
    ),
    "redrive": Action(
        title="Redrive dead letters",
        effect="New groups are opened for the prompts of these letters. What ended stays ended.",
        act=_redrive,
    ),
}


async def perform(desk: ControlDesk, asked: Asked) -> str:
    """Do it, between its two lines in control.jsonl; returns what became of it, or raises."""
    action, folder = ACTIONS[asked.action], desk.run_folder
    line = await asyncio.to_thread(
        begin_line,
        folder,
        who=asked.who,
        action=asked.action,
        reason=asked.reason,
        target=asked.target,
    )
    try:
        detail = await action.act(desk.doors, asked)
        if action.has_event:
            detail += await _tell(desk.doors, asked, detail)
    except BaseException as error:
        end_line(folder, line, failure=error)  # not in a thread: it may be that this task is cancelled
        raise
    await asyncio.to_thread(end_line, folder, line, detail)
    return detail


async def _tell(doors: Doors, asked: Asked, detail: str) -> str:
    """Have the run's own events say it; that it cannot be told is no failure of what was done."""
    try:
        now = await doors.status()
        event = types_pb2.RunEvent(
            id=f"control/{secrets.token_hex(8)}",
            kind="control",
            severity=types_pb2.SEVERITY_INFO,
            step=now.step,
            version=now.version,
            at=time.time(),
            title=f"{ACTIONS[asked.action].title}, asked for by {asked.who}: {asked.reason}"[:500],
            evidence_json=json.dumps({"target": asked.target, "outcome": detail}),
        )
        await doors.report(event)
    except ForklightError as error:
        return f" (not told to the run as an event: {error})"
    return ""


def read_step(target: str) -> int:
    """The step that is gone back to; InvalidInputError."""
    if not target.isdigit():
        raise InvalidInputError(f"{target[:40]!r} is no step: choose a checkpoint")
    return int(target)
