"""Ends a system so that the run can be resumed: trainer, rollout, reward, buffer, Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forklight_cli.up.plan import Kind
from forklight_cli.up.process import ManagedProcess
from forklight_cli.up.signals import StopSignals
from forklight_cli.up.system import CHECK_EVERY_S, System


@dataclass(frozen=True, slots=True)
class Stage:
    """Children that end together, and the time they have."""

    kinds: tuple[Kind, ...]
    deadline_s: float
    doing: str


def plan_stages(drain_s: float) -> tuple[Stage, ...]:
    """The order, with deadlines: a step may take minutes, a pod has its drain time."""
    return (
        Stage((Kind.TRAINER,), 600.0, "the trainer finishes its step and writes a checkpoint"),
        Stage((Kind.ROLLOUT,), drain_s + 15.0, "rollout pods drain and hand back their leases"),
        Stage((Kind.REWARD, Kind.CONSOLE), 30.0, "reward workers finish"),
    )


LAST_STAGE = Stage((Kind.BUFFER,), 30.0, "the buffer closes its ledger")


def shut_down(
    system: System, stops: StopSignals, *, drain_s: float, before_buffer: Callable[[], None]
) -> None:
    """End everything; `before_buffer` runs while the buffer still answers. A second signal kills the rest."""
    try:
        for stage in plan_stages(drain_s):
            _end(system, stage, stops)
        if not stops.urgent:
            before_buffer()
        _end(system, LAST_STAGE, stops)
    finally:
        system.kill()


def _end(system: System, stage: Stage, stops: StopSignals) -> None:
    children = [child for child in system.of_kind(*stage.kinds) if not child.is_over]
    if not children or stops.urgent:
        return
    system.report(f"stopping: {stage.doing}")
    for child in children:
        child.terminate()
    _wait_for(system, children, stage, stops)


def _wait_for(system: System, children: Sequence[ManagedProcess], stage: Stage, stops: StopSignals) -> None:
    """Wait for the ends; meanwhile what still has to run is looked after."""
    deadline = time.monotonic() + stage.deadline_s
    while not all(child.is_over for child in children):
        stops.wait(CHECK_EVERY_S)
        system.check()
        if stops.urgent or time.monotonic() > deadline:
            late = ", ".join(child.plan.name for child in children if not child.is_over)
            reason = "asked twice" if stops.urgent else f"not done after {stage.deadline_s:.0f} s"
            if late:
                system.report(f"killing {late}: {reason}")
            for child in children:
                child.kill()
            return
