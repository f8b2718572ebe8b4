"""A bounded line for each class of work, so that a class that is stuck takes no place of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobStore
from forklight_core.errors import ForklightError
from forklight_core.wire import parse
from forklight_reward import metrics
from forklight_reward.front.program import is_repository
from forklight_reward.front.route import TaskKind
from forklight_reward.slots import Line

WAITING_A_PLACE = 2
"""So many may wait in this process for each place. What waits here, no other front can take."""
MOST_REMEMBERED = 65_536


class WorkClass(StrEnum):
    """What is alike in how long it takes and whom it waits for."""

    RULES = "rules"
    CODE = "code"
    REPO = "repo"
    JUDGE = "judge"


def class_of(kind: str, spec_json: str = "") -> WorkClass:
    """The class of a task. Kinds nobody knows fail at once, so they are cheap."""
    if kind == TaskKind.CODE:
        return WorkClass.REPO if is_repository(spec_json) else WorkClass.CODE
    if kind == TaskKind.GYM:
        return WorkClass.CODE
    return WorkClass.JUDGE if kind == TaskKind.JUDGE else WorkClass.RULES


class Sorter:
    """Classes of tasks from the queue: whether code is a repository, only its specification says."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._known: dict[str, WorkClass] = {}

    async def sort(self, task: types_pb2.ScoringTask) -> WorkClass:
        """The class; of a specification that cannot be read, its kind's: scoring says what is wrong."""
        if task.kind != TaskKind.CODE:
            return class_of(task.kind)
        known = self._known.get(task.spec.id)
        if known is None:
            try:
                known = await asyncio.to_thread(self._read, task.spec.id)
            except ForklightError:
                return WorkClass.CODE
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[task.spec.id] = known
        return known

    def _read(self, spec_id: str) -> WorkClass:
        spec = parse(types_pb2.TaskSpec, self._blobs.get(spec_id))
        return class_of(spec.kind, spec.spec_json)


class Lanes:
    """As many places for each class."""

    def __init__(self, places_a_class: int) -> None:
        self._lines = {
            each: Line(places_a_class, name=f"front, {each}", max_waiting=WAITING_A_PLACE * places_a_class)
            for each in WorkClass
        }

    def has_room(self, work_class: WorkClass) -> bool:
        """Whether one more of a class fits in."""
        return self._lines[work_class].has_room

    @property
    def num_room(self) -> int:
        """How many more fit in, if they are of the right classes."""
        return sum(line.num_room for line in self._lines.values())

    @asynccontextmanager
    async def hold(self, work_class: WorkClass, wait_s: float | None = None) -> AsyncIterator[None]:
        """A place of a class. BusyError, with a hint, when it is full or the wait is too long."""
        line, name = self._lines[work_class], work_class.value
        async with line.hold(wait_s):
            metrics.set_lane(name, line.num_running, line.num_waiting)
            try:
                yield
            finally:
                metrics.set_lane(name, line.num_running - 1, line.num_waiting)
