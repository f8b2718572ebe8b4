"""The ledger in SQLite; `SqliteLedger(None)` keeps it in memory."""

from __future__ import annotations

from pathlib import Path

from forklight_buffer.adapters.sqlite.commits import CommitTable
from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.adapters.sqlite.evidence import EvidenceTable
from forklight_buffer.adapters.sqlite.groups import GroupTable
from forklight_buffer.adapters.sqlite.lookups import LookupTable
from forklight_buffer.adapters.sqlite.reports import ReportTable
from forklight_buffer.adapters.sqlite.rewind import RewindTable
from forklight_buffer.adapters.sqlite.rounds import RoundTable
from forklight_buffer.adapters.sqlite.runs import RunTable
from forklight_buffer.adapters.sqlite.samples import SampleTable


class SqliteLedger(
    GroupTable,
    SampleTable,
    CommitTable,
    RewindTable,
    RunTable,
    RoundTable,
    ReportTable,
    EvidenceTable,
    LookupTable,
):
    """Implements `Ledger`."""

    def __init__(self, path: Path | None) -> None:
        self._db = Database(path)

    def close(self) -> None:
        self._db.close()


__all__ = ["SqliteLedger"]
