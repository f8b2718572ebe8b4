"""Going back to an older checkpoint, asked for by an alarm from the loop itself, or by a person at the door.

A request is accepted at once and done between two steps. Until then, and while it is done, the checkpoint it
leads to is not pruned, and nobody else's is accepted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum

from forklight_core.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from forklight_trainer.assembly import LoopParts
from forklight_trainer.checkpoints.roll_backs import AskedBy
from forklight_trainer.saver import Saver

WHO = {AskedBy.ALARM: "an alarm", AskedBy.PERSON: "a person"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The newest sound checkpoint up to a step."""

    step: int
    reason: str
    asked_by: AskedBy

    def __str__(self) -> str:
        return f"to step {self.step} (the wish of {WHO[self.asked_by]}: {self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What going back gives up."""

    from_step: int
    to_step: int
    updates_per_version: int

    @property
    def from_version(self) -> int:
        return self.from_step // self.updates_per_version

    @property
    def to_version(self) -> int:
        return self.to_step // self.updates_per_version


class _Stage(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    OVER = "over"


class RollBackRequests:
    """At most one at a time; of any thread."""

    def __init__(self, parts: LoopParts, saver: Saver) -> None:
        self._parts, self._saver = parts, saver
        self._lock = threading.Lock()
        self._stage = _Stage.STARTING
        self._pending: Request | None = None

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return self._parts.checkpoints.list_steps()

    @property
    def pending(self) -> Request | None:
        """Accepted and not done yet."""
        return self._pending

    def open(self) -> None:
        """The loop stands somewhere: there is something to go back from. What was asked for is done."""
        with self._lock:
            self._stage, self._pending = _Stage.RUNNING, None

    def close(self) -> bool:
        """The run is over, unless somebody has asked meanwhile."""
        with self._lock:
            if self._pending is None:
                self._stage = _Stage.OVER
            return self._stage is _Stage.OVER

    def demand(self, step: int, reason: str) -> None:
        """The loop's own. Joined with what a person has asked for, it is the further way back."""
        with self._lock:
            other = self._pending
            if other is not None:
                step, reason = min(step, other.step), f"{other.reason}; {reason}"
            self._pending = Request(step=step, reason=reason, asked_by=AskedBy.ALARM)
            self._saver.pinned_step = step

    def ask(self, step: int, reason: str, *, is_exact: bool = False, is_dry: bool = False) -> Way:
        """A person's; accepted when this returns."""
        with self._lock:
            way = self._find_way(step, is_exact=is_exact)
            if is_dry:
                return way
            if not reason.strip():
                raise InvalidInputError("a reason is needed to go back: say why, for those who look later")
            if not self._saver.pin(way.to_step, is_there=lambda: way.to_step in self.steps):
                raise NotFoundError(
                    f"the checkpoint of step {way.to_step} was just removed: {self._there_are()}"
                )
            self._pending = Request(step=way.to_step, reason=reason.strip(), asked_by=AskedBy.PERSON)
            return way

    def _find_way(self, step: int, *, is_exact: bool) -> Way:
        self._check_stage()
        if self._pending is not None:
            raise BusyError(
                f"the run is going back already, {self._pending}: ask again when `forklight status` shows it"
            )
        steps, here = self.steps, self._parts.board.status.step
        if not steps:
            raise PreconditionError(f"the run stands at step {here} and has no checkpoint yet")
        found = [each for each in steps if each == step or (each < step and not is_exact)]
        if not found:
            wanted = f"of step {step}" if is_exact else f"as old as step {step}"
            raise NotFoundError(
                f"there is no checkpoint {wanted}: {self._there_are()}. Old ones are removed while the run "
                "goes on (checkpoints.keep_last): `forklight pause` keeps them while you choose"
            )
        if found[-1] >= here:
            raise InvalidInputError(
                f"the run stands at step {here}, and the newest checkpoint up to step {step} is that of step "
                f"{found[-1]}: nothing would be given up. Name an older one: {self._there_are()}"
            )
        return Way(
            from_step=here,
            to_step=found[-1],
            updates_per_version=self._parts.run_file.trainer.updates_per_version,
        )

    def _check_stage(self) -> None:
        if self._stage is _Stage.OVER:
            raise PreconditionError(
                f"the run is over at step {self._parts.board.status.step}: it goes back no more. Start a new "
                "run with model.path set to a checkpoint's folder"
            )
        if self._stage is _Stage.STARTING or self._parts.stop.is_set():
            doing = "stopping" if self._parts.stop.is_set() else "starting"
            raise UnavailableError(f"the trainer is {doing}: ask again when it runs")

    def _there_are(self) -> str:
        names = ", ".join(map(str, self.steps))
        return f"there are those of the steps {names}" if names else "there is none"
