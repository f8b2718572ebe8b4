"""What follows a step, in a thread of its own: its checkpoint durable, then its samples committed, then its
version announced. In this order, so that what rollout uses can always be restored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_core.errors import BusyError
from forklight_trainer import metrics
from forklight_trainer.assembly import LoopParts
from forklight_trainer.background import Background
from forklight_trainer.checkpoints.contents import CheckpointState
from forklight_trainer.durable import sync_path
from forklight_trainer.patience import Patience
from forklight_trainer.ports import Snapshot
from forklight_trainer.status import Stage

log = logging.getLogger(__name__)

POLL_S = 0.2
NOTABLE_S = 1.0
PRUNING_S = 5.0
"""How long the door waits for old checkpoints to be removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What the buffer is told once a checkpoint is durable."""

    records: Sequence[types_pb2.CommitRecord]
    window_tokens: int
    events: Sequence[types_pb2.RunEvent]


class Saver:
    """At most one checkpoint at a time. What goes wrong comes out at the loop's next `check` or `wait`."""

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts
        self._give_up = threading.Event()
        self._patience = Patience(self._give_up)
        self._background = Background("checkpoint")
        self._live_step = 0
        self.durable_step = 0
        """Newest step that a crash cannot take."""
        self.pinned_step: int | None = None
        """Somebody wants to go back there: what that needs is not pruned."""
        self._pruning = threading.Lock()

    def begin_at(self, step: int, *, live_step: int) -> None:
        """A checkpoint was restored; the version that rollout was told of is of `live_step`."""
        self.durable_step, self._live_step, self.pinned_step = step, live_step, None

    def pin(self, step: int, *, is_there: Callable[[], bool]) -> bool:
        """From another thread: pinned if it `is_there`, which is asked while nothing is being pruned."""
        if not self._pruning.acquire(timeout=PRUNING_S):
            raise BusyError("old checkpoints are being removed: ask again in a while")
        try:
            if is_there():
                self.pinned_step = step
            return self.pinned_step == step
        finally:
            self._pruning.release()

    def save(self, snapshot: Snapshot, state: CheckpointState, news: News) -> None:
        """Write a checkpoint of the snapshot, tell the buffer, forget old ones; returns at once."""
        self._background.submit(Stage.CHECKPOINT, lambda: self._write(snapshot, state, news.records))
        self._background.submit(Stage.COMMIT, lambda: self._commit(news))

    def announce(self, weights: types_pb2.WeightsRef, *, step: int) -> None:
        """Tell rollout of a version, once everything before is durable and committed; returns at once."""
        self._background.submit(Stage.PUBLISH, lambda: self._announce(weights, step))

    def check(self) -> None:
        """Raise what went wrong."""
        self._background.check()

    def wait(self) -> None:
        """Until nothing is left to do. The board shows what for; told to stop, no outage is waited out."""
        board, start_s = self._parts.board, time.monotonic()
        before, waited_for = board.status.stage, self._background.doing
        while (doing := self._background.doing) is not None:
            board.enter(Stage(doing))
            if self._parts.stop.is_set():
                self._give_up.set()
            self._background.wait(POLL_S)
        self._background.check()
        if waited_for is None:
            return
        board.enter(before)
        waited_s = time.monotonic() - start_s
        metrics.record_checkpoint_wait(waited_s)
        if waited_s > NOTABLE_S:
            log.info("waited for a checkpoint", extra={"waited_s": round(waited_s, 3), "first": waited_for})

    def close(self) -> None:
        """Finish the write under way, if there is one; drop the rest: the next start makes up for it."""
        self._give_up.set()
        self._background.close()

    def _write(
        self, snapshot: Snapshot, state: CheckpointState, commits: Sequence[types_pb2.CommitRecord]
    ) -> None:
        parts, start_s = self._parts, time.monotonic()
        try:
            for path in (parts.steps_file, parts.steps_file.parent):
                sync_path(path)  # the lines of these steps are not written again
            self._patience.call(
                "write a checkpoint", lambda: parts.checkpoints.write(snapshot, state, commits)
            )
        finally:
            snapshot.release()
        self.durable_step = state.step
        write_s = time.monotonic() - start_s
        metrics.record_checkpoint_write(write_s)
        log.info("checkpoint written", extra={"step": state.step, "write_s": round(write_s, 3)})

    def _commit(self, news: News) -> None:
        buffer = self._parts.buffer
        self._patience.call(
            "commit steps at the buffer",
            lambda: buffer.commit_steps(news.records, window_tokens=news.window_tokens, events=news.events),
        )
        with self._pruning:
            pinned = self.pinned_step
            needed = {self._live_step} if pinned is None else {self._live_step, pinned}
            self._parts.checkpoints.prune(needed=needed)

    def _announce(self, weights: types_pb2.WeightsRef, step: int) -> None:
        self._patience.call(
            "announce the version at the buffer", lambda: self._parts.buffer.announce_version(weights)
        )
        self._parts.weights.send(weights)
        self._live_step = step
