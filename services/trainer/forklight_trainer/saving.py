"""A checkpoint that somebody asks for: accepted at the door, written by the loop between two steps."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from forklight_core.errors import InvalidInputError, PreconditionError, UnavailableError
from forklight_trainer.assembly import LoopParts
from forklight_trainer.saver import Saver


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAnswer:
    """How far the run is, and how much of it a crash cannot take."""

    step: int
    durable_step: int


class SaveRequests:
    """Of any thread; asked for twice before the loop looks, it is one checkpoint."""

    def __init__(self, parts: LoopParts, saver: Saver) -> None:
        self._parts, self._saver = parts, saver
        self._lock = threading.Lock()
        self._is_open = False
        self._is_over = False
        self._is_asked = False

    def open(self) -> None:
        """The loop stands somewhere."""
        with self._lock:
            self._is_open, self._is_asked = True, False

    def close(self) -> None:
        """The run is over: its last step has a checkpoint."""
        with self._lock:
            self._is_over = True

    def ask(self, reason: str) -> SaveAnswer:
        """Accepted when this returns."""
        if not reason.strip():
            raise InvalidInputError(
                "a reason is needed to save a checkpoint: say why, for those who look later"
            )
        with self._lock:
            if self._is_over:
                raise PreconditionError("the run is over: its last step has a checkpoint")
            if not self._is_open or self._parts.stop.is_set():
                doing = "stopping" if self._parts.stop.is_set() else "starting"
                raise UnavailableError(f"the trainer is {doing}: ask again when it runs")
            self._is_asked = True
            return SaveAnswer(step=self._parts.board.status.step, durable_step=self._saver.durable_step)

    def take(self) -> bool:
        """The loop's: whether somebody has asked since it looked last."""
        with self._lock:
            is_asked, self._is_asked = self._is_asked, False
            return is_asked
