"""What the ledger's page needs from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forklight.v1 import buffer_pb2


class LedgerSource(Protocol):
    """The buffer's inspection. Errors are those of `forklight_core.errors`."""

    async def dead_letters(self, limit: int) -> Sequence[buffer_pb2.DeadLetter]:
        """Queue entries that were given up, the newest first."""

    async def ledger(self, *, after: str, limit: int) -> buffer_pb2.ReadLedgerReply:
        """What is final."""
