"""What the trainer is doing, readable from the door's thread while the loop writes it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum

from forklight.v1 import types_pb2


class Stage(StrEnum):
    """Stages of the loop."""

    START = "start"
    LEASE = "lease"
    FETCH = "fetch"
    TRAIN = "train"
    CHECKPOINT = "checkpoint"
    COMMIT = "commit"
    PUBLISH = "publish"
    PAUSED = "paused"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerStatus:
    """A consistent look at the loop."""

    step: int = 0
    version: int = 0
    lineage: str = ""
    stage: Stage = Stage.START
    stage_since: float = 0.0
    problem: str = ""
    numeric_mode: types_pb2.NumericMode | None = None
    num_compared_tokens: int = 0
    num_unequal_tokens: int = 0


class StatusBoard:
    """The newest status, and how long each stage of the running step took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = TrainerStatus(stage_since=time.time())
        self._entered_s = time.monotonic()
        self._seconds: dict[str, float] = {}

    @property
    def status(self) -> TrainerStatus:
        with self._lock:
            return self._status

    def enter(self, stage: Stage) -> None:
        """The loop goes on to another stage."""
        now_s = time.monotonic()
        with self._lock:
            name = self._status.stage.value
            self._seconds[name] = self._seconds.get(name, 0.0) + now_s - self._entered_s
            self._entered_s = now_s
            if stage is not self._status.stage:
                self._status = replace(self._status, stage=stage, stage_since=time.time())

    def report(self, *, step: int, version: int, lineage: str) -> None:
        with self._lock:
            self._status = replace(self._status, step=step, version=version, lineage=lineage)

    def set_problem(self, problem: str) -> None:
        """Empty when there is none."""
        with self._lock:
            self._status = replace(self._status, problem=problem)

    def set_numeric_mode(self, mode: types_pb2.NumericMode) -> None:
        with self._lock:
            self._status = replace(self._status, numeric_mode=mode)

    def count_compared(self, num_tokens: int, num_unequal: int) -> None:
        """Tokens that the weights which sampled them have scored again."""
        with self._lock:
            self._status = replace(
                self._status,
                num_compared_tokens=self._status.num_compared_tokens + num_tokens,
                num_unequal_tokens=self._status.num_unequal_tokens + num_unequal,
            )

    def take_seconds(self) -> dict[str, float]:
        """Seconds by stage since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
            return taken
