"""One run from start to summary: cold start, Redis, services, watching, orderly end.

loop: check children -> ask the buffer -> read new steps -> draw -> until finished, lost or asked to stop
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forklight_cli.buffer_client import BufferClient
from forklight_cli.cold_start import SftEvent, run_cold_start
from forklight_cli.cold_start_report import describe_event, is_worth_telling
from forklight_cli.run_folder import RunFolder, lock_run_folder, read_system, write_atomically
from forklight_cli.up.evaluations import EvaluationLog
from forklight_cli.up.events import EventWatch
from forklight_cli.up.plan import Kind, plan_system
from forklight_cli.up.ready import ReadyWatch
from forklight_cli.up.shutdown import shut_down
from forklight_cli.up.signals import StopSignals
from forklight_cli.up.steps import StepReader
from forklight_cli.up.summary import Outcome
from forklight_cli.up.system import System
from forklight_cli.up.table import View, open_view
from forklight_cli.up.watching import write_targets
from forklight_core.errors import DeadlineError, ForklightError, UnavailableError
from forklight_core.redis_server import start_embedded
from forklight_core.runfile import RunFile, dump_run_file, load_run_file

if TYPE_CHECKING:
    from forklight.v1 import buffer_pb2

WATCH_EVERY_S = 0.5
STATUS_EVERY_S = 2.0
STATUS_DEADLINE_S = 2.0
FINISH_DEADLINE_S = 600.0
STOPPED = "asked to stop"
Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the watch loop needs."""

    system: System
    buffer: BufferClient
    steps: StepReader
    evaluations: EvaluationLog
    events: EventWatch
    view: View


def run_system(folder: RunFolder, *, announce: Announce, reopen: bool = False) -> Outcome:
    """Bring the run of a folder up and stay until it ends; the folder can be resumed afterwards.

    `reopen` lets a finished run go on, for example after its last step was moved.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        stops = stack.enter_context(StopSignals())
        lock = lock_run_folder(folder)
        stack.callback(os.close, lock)
        run_file = prepare_model(folder, stops, announce)
        evaluations = EvaluationLog(folder)
        status, reason = None, STOPPED
        if not stops.requested:
            system = _open_system(stack, folder, run_file, lock, announce)
            watched = _open_watched(stack, system, evaluations)
            reason = start_in_order(watched, stops, reopen=reopen) or watch(watched, stops)
            status = _stop(watched, stops, drain_s=run_file.rollout.drain_s)
        return Outcome(
            folder=folder,
            run_file=run_file,
            rounds=evaluations.rounds,
            status=status,
            wall_s=time.monotonic() - started,
            stopped_because=reason,
        )


def start_in_order(watched: Watched, stops: StopSignals, *, reopen: bool) -> str:
    """Start the buffer, set the phase, then the rest. Why nothing was started, when there is no need to."""
    from forklight.v1 import buffer_pb2

    system, buffer = watched.system, watched.buffer
    system.start(Kind.BUFFER)
    system.await_ready(Kind.BUFFER, stops)
    if stops.requested:
        return STOPPED
    status = buffer.status()
    if _is_finished(status) and not reopen:
        return f"it was finished before ({status.reason})"
    buffer.set_phase(buffer_pb2.RUN_PHASE_RUNNING, "")
    system.start(Kind.REWARD)
    system.await_ready(Kind.REWARD, stops)
    if not stops.requested:  # pods become ready only with the trainer's first weights: nobody waits for them
        system.start(Kind.ROLLOUT, Kind.TRAINER, Kind.CONSOLE)
    return ""


def watch(watched: Watched, stops: StopSignals) -> str:
    """Look after the system until there is a reason to stop; returns it."""
    system, status = watched.system, None
    ready = ReadyWatch([child.plan for child in system.processes.values()], watched.view.event)
    asked = finished = 0.0
    while not stops.wait(WATCH_EVERY_S):
        system.check()
        lost = system.lost()
        if lost:
            return f"{lost.plan.name} cannot be kept running; its log is {lost.log_path}\n{lost.log_tail()}"
        if time.monotonic() - asked > STATUS_EVERY_S:
            ready.look()
            status, asked = _status(watched), time.monotonic()
        _show(watched, status)
        if _is_finished(status):
            finished = finished or time.monotonic()
        if system.trainer_has_ended():
            status = _status(watched)
            if _is_finished(status):
                return _reason(status)
            if status is not None and not status.is_last_evaluation:
                system.revive_trainer()
        elif finished and time.monotonic() - finished > FINISH_DEADLINE_S:
            return _reason(status)
    return STOPPED


def prepare_model(folder: RunFolder, stops: StopSignals, announce: Announce) -> RunFile:
    """The run file, with the result of the cold start as its model when it asks for one."""
    run_file = load_run_file(folder.run_file)
    kind = "hf" if run_file.model.hf else "path"
    if not run_file.sft.demonstrations or getattr(run_file.model, kind) == str(folder.cold_start):
        return run_file

    def progress(event: SftEvent) -> None:
        if stops.requested:
            raise KeyboardInterrupt
        for line in describe_event(event).splitlines() if is_worth_telling(event) else ():
            announce(f"cold start: {line}")

    log = folder.log_of("sft")
    try:
        run_cold_start(folder.run_file, folder.cold_start, log=log, progress=progress, resume=True)
    except KeyboardInterrupt:
        return run_file
    model = run_file.model.model_copy(update={kind: str(folder.cold_start)})
    run_file = run_file.model_copy(update={"model": model})
    write_atomically(folder.run_file, dump_run_file(run_file))
    return run_file


def _open_system(
    stack: ExitStack, folder: RunFolder, run_file: RunFile, lock: int, announce: Announce
) -> System:
    """Redis started (unless REDIS_URL names another), services planned; both end with the stack."""
    redis_url, redis = os.environ.get("REDIS_URL", ""), None
    if redis_url:
        announce(f"redis: {redis_url} (REDIS_URL)")
    else:
        redis = start_embedded(folder.redis)
        stack.callback(redis.stop)
        redis_url = redis.url
        announce(f"redis: {redis_url} ({redis.binary.source})")
    plan = plan_system(run_file, folder, read_system(folder).run_id, redis_url)
    system = System(plan, redis=redis, lock=lock, report=announce)
    stack.callback(system.kill)
    announce(f"console: http://{plan.address_of('console')}/")
    if targets := write_targets(plan):
        announce(f"metrics: for Prometheus (file_sd) in {targets}")
    return system


def _open_watched(stack: ExitStack, system: System, evaluations: EvaluationLog) -> Watched:
    plan = system.plan
    buffer = stack.enter_context(BufferClient(plan.address_of("buffer"), plan.run_id))
    view = open_view(f"{plan.run_id}  http://{plan.address_of('console')}/")
    stack.callback(view.close)
    system.report = view.event
    steps = StepReader(plan.folder.steps, skip_existing=True)
    return Watched(
        system=system, buffer=buffer, steps=steps, evaluations=evaluations, events=EventWatch(), view=view
    )


def _show(watched: Watched, status: buffer_pb2.GetStatusReply | None) -> None:
    if status is not None:
        for each in watched.evaluations.add(status):
            watched.view.event(f"held-out reward {each} at version {each.version}")
        for text in watched.events.find_new(status):
            watched.view.event(text)
    for step in watched.steps.read_new():
        watched.view.step(step)
    watched.view.state(status, list(watched.system.processes.values()))


def _stop(watched: Watched, stops: StopSignals, *, drain_s: float) -> buffer_pb2.GetStatusReply | None:
    """End everything in order; the status as it was when only the buffer was left."""
    from forklight.v1 import buffer_pb2

    last: list[buffer_pb2.GetStatusReply | None] = [None]

    def remember() -> None:
        last[0] = _status(watched)
        _show(watched, last[0])

    status = _status(watched)
    if status is not None and status.phase == buffer_pb2.RUN_PHASE_RUNNING:
        with suppress(UnavailableError, DeadlineError):  # it drains all the same, only later
            watched.buffer.set_phase(buffer_pb2.RUN_PHASE_DRAINING, "the system is stopping")
    shut_down(watched.system, stops, drain_s=drain_s, before_buffer=remember)
    return last[0] or status


def _is_finished(status: buffer_pb2.GetStatusReply | None) -> bool:
    from forklight.v1 import buffer_pb2

    return status is not None and status.phase == buffer_pb2.RUN_PHASE_FINISHED


def _reason(status: buffer_pb2.GetStatusReply | None) -> str:
    return status.reason if status is not None and status.reason else "the trainer is done"


def _status(watched: Watched) -> buffer_pb2.GetStatusReply | None:
    try:
        return watched.buffer.status(timeout_s=STATUS_DEADLINE_S)
    except ForklightError:
        return None
