"""The audit log of one front: every verdict becomes one line before the buffer hears of it.

A disk that takes nothing does not hold up verdicts: lines wait in memory, up to a bound, and are tried again
with the next ones and every few seconds. Beyond the bound the oldest are given up, loudly, and the file says
how many (type `gap`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import BusyError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.rpc import Coalescer
from forklight_reward import metrics
from forklight_reward.audit.chain import Body
from forklight_reward.audit.evidence import EvidenceStore
from forklight_reward.audit.shard import SUFFIX, Shard, create_shard, first_line, last_line, repair_shard

FOLDER = "verdicts"
MOST_AT_ONCE = 256
RETRY_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLimits:
    """When a file is full, and how many lines wait for a disk that is."""

    shard_bytes: int = 64 * 1024 * 1024
    most_waiting: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line to be, and the evidence it names."""

    body: Body
    evidence: tuple[bytes, ...] = ()


class AuditLog:
    """One writer; called from one event loop, writes in a thread."""

    def __init__(self, folder: Path, *, run_id: str, pod: str, limits: AuditLimits = AuditLimits()) -> None:
        self.folder = folder
        self.evidence = EvidenceStore(folder / "evidence")
        self._run_id, self._pod, self._limits = run_id, pod, limits
        self._shard: Shard | None = None
        self._day = ""
        self._waiting: deque[Body] = deque()
        self._num_lost = 0
        self._coalescer: Coalescer[Entry, None] = Coalescer(self._send, most=MOST_AT_ONCE)

    def open(self) -> None:
        """Close what killed writers of this machine left open. A file is begun with its first line.

        A folder that cannot be written is a disk that takes nothing: said loudly, and tried again.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._repair()
        except OSError as error:
            logger.error("the audit log cannot be opened", extra={"reason": str(error)})

    def _repair(self) -> None:
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if last_line(path).get("type") == "end":
                continue
            header = first_line(path)
            if not header or socket.gethostname() == header.get("host") or self._pod == header.get("pod"):
                metrics.count_audit_repair(repair_shard(path))

    async def add(self, entry: Entry) -> None:
        """Returns when the line is written, or waits for the disk. Never fails for the disk's sake."""
        await self._coalescer.submit(entry)

    async def keep(self, stop: asyncio.Event) -> None:
        """Try again what waits, until told to stop."""
        while not stop.is_set():
            await sleep_or_stop(stop, RETRY_S)
            if self._waiting and not stop.is_set():
                await self._coalescer.submit(Entry(body={}))

    def close(self) -> None:
        """The last try, and the end of the file."""
        self._write(())
        if self._waiting:
            logger.error("verdicts end unaudited", extra={"num_lines": len(self._waiting) + self._num_lost})
        if self._shard is not None:
            shard, self._shard = self._shard, None
            try:
                shard.end()
            except OSError as error:
                logger.error("an audit file was not closed", extra={"reason": str(error)})

    async def _send(self, entries: Sequence[Entry]) -> Sequence[None]:
        await asyncio.to_thread(self._write, entries)
        return [None] * len(entries)

    def _write(self, entries: Sequence[Entry]) -> None:
        self._waiting.extend(self._keep_evidence(entry) for entry in entries if entry.body)
        if not self._waiting:
            return
        gap = [{"type": "gap", "at": time.time(), "num_lost": self._num_lost}] if self._num_lost else []
        try:
            self._file().append([*gap, *self._waiting])
        except OSError as error:
            self._hold(error)
        else:
            metrics.count_audited(len(self._waiting))
            self._waiting.clear()
            self._num_lost = 0
        metrics.set_audit_waiting(len(self._waiting))

    def _hold(self, error: OSError) -> None:
        """The disk does not take them: keep what fits into memory."""
        num_over = max(0, len(self._waiting) - self._limits.most_waiting)
        for _ in range(num_over):
            self._waiting.popleft()
        self._num_lost += num_over
        metrics.count_audit_lost(num_over)
        logger.error(
            "the audit log cannot be written; verdicts go on, their lines wait in memory",
            extra={
                "reason": str(error),
                "folder": str(self.folder),
                "num_waiting": len(self._waiting),
                "num_lost": self._num_lost,
            },
        )

    def _keep_evidence(self, entry: Entry) -> Body:
        try:
            for data in entry.evidence:
                self.evidence.put(data)
        except (OSError, BusyError) as error:
            logger.error("evidence was not kept", extra={"reason": str(error)})
            return {**entry.body, "evidence_lost": True}
        return entry.body

    def _file(self) -> Shard:
        """The file of the day, while it has room."""
        today = time.strftime("%Y%m%d", time.gmtime())
        follows: Body | None = None
        if self._shard is not None and (
            self._shard.num_bytes >= self._limits.shard_bytes or self._day != today
        ):
            shard, self._shard = self._shard, None
            shard.end()
            follows = {"shard": shard.path.name, "hash": shard.head}
        if self._shard is None:
            self._shard = create_shard(self.folder, self._run_id, self._pod, follows)
            self._day = today
        return self._shard
