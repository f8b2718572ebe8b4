"""Checkpoints of many ranks: each writes its file to a spool folder they share, from a thread of its own.

The first rank links the files into the checkpoint it is building, so that it may try again elsewhere after a
failure, and the others never hear where checkpoints lie. Nothing here is collective.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from forklight_core.retry import backoff_delays
from forklight_model.parts import STATE_FOLDER, part_name
from forklight_trainer.checkpoints.parts import await_parts, hash_of, write_parts
from forklight_trainer.checkpoints.snapshot import DEADLINE_S, RankSnapshot
from forklight_trainer.durable import sync_path

log = logging.getLogger(__name__)

GIVE_UP_S = DEADLINE_S


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GangSnapshot:
    """The first rank's snapshot: a `Snapshot` of all ranks."""

    own: RankSnapshot
    spool: Path

    def write(self, folder: Path) -> None:
        if not hash_of(_own_file(self.own, self.spool)).exists():
            _write_own(self.own, self.spool)
        await_parts(self.spool, self.own.num_ranks, deadline_s=self.own.deadline_s)
        target = folder / STATE_FOLDER
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((self.spool / STATE_FOLDER).iterdir()):
            if not (target / path.name).exists():
                _link(path, target / path.name)

    def release(self) -> None:
        self.own.release()
        shutil.rmtree(self.spool, ignore_errors=True)


class FollowerWriter:
    """Another rank's writing, while its main thread computes."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self, snapshot: RankSnapshot, spool: Path) -> None:
        """Write and release; a full disk is waited out, as long as the first rank waits."""
        self._thread = threading.Thread(
            target=_write_patiently, args=(snapshot, spool), name="spool", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until the snapshot before is written or given up."""
        if self._thread is not None:
            self._thread.join()


def _write_patiently(snapshot: RankSnapshot, spool: Path) -> None:
    waited_s = 0.0
    try:
        for delay_s in backoff_delays():
            try:
                _write_own(snapshot, spool)
                return
            except (OSError, SafetensorError) as error:
                log.warning("part of a checkpoint not written yet", extra={"reason": str(error)})
            waited_s += delay_s
            if waited_s > GIVE_UP_S:
                return
            threading.Event().wait(delay_s)
    finally:
        snapshot.release()


def _write_own(snapshot: RankSnapshot, spool: Path) -> None:
    write_parts(
        spool,
        snapshot.parts,
        rank=snapshot.rank,
        num_ranks=snapshot.num_ranks,
        adam_step=snapshot.adam_step,
        random=snapshot.random,
    )


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK):
            raise
        shutil.copyfile(path, target)
        sync_path(target)


def _own_file(snapshot: RankSnapshot, spool: Path) -> Path:
    return spool / STATE_FOLDER / part_name(snapshot.rank, snapshot.num_ranks)
