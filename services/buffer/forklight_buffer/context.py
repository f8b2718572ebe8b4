"""What every part of the buffer works on."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from forklight_buffer.ledger import Ledger
from forklight_buffer.ports import Clock, LiveState
from forklight_buffer.records import Event
from forklight_buffer.signals import Signal
from forklight_core.blobs import BlobStore
from forklight_core.runfile import RunFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One run. Whoever changes more than one group, or the run itself, holds `turn`; submissions do not."""

    run_id: str
    run_folder: Path
    run_file: RunFile
    live: LiveState
    ledger: Ledger
    blobs: BlobStore
    clock: Clock
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    ready: Signal = field(default_factory=Signal)
    """A group became ready, or the phase changed."""
    credit: Signal = field(default_factory=Signal)
    """Credit came back, or a version was announced."""
    ended: Signal = field(default_factory=Signal)
    """A sample is terminal and the ledger does not have it yet."""

    async def record(self, kind: str, detail: str) -> None:
        """Tell people: the ledger, events.jsonl and the log."""
        event = Event(at=self.clock(), kind=kind, detail=detail)
        await asyncio.to_thread(self._append, event)
        log.info("event", extra={"kind": kind, "detail": detail})

    def _append(self, event: Event) -> None:
        self.ledger.add_event(event)
        line = json.dumps({"at": event.at, "kind": event.kind, "detail": event.detail})
        with (self.run_folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def notify_all(self) -> None:
        """Everyone should look again."""
        for signal in (self.ready, self.credit, self.ended):
            signal.notify()
