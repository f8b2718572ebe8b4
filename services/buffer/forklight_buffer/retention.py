"""Deletes payload blobs that nobody can ask for any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from forklight_buffer.context import Context
from forklight_core.errors import ForklightError

log = logging.getLogger(__name__)

BLOBS_AT_ONCE = 256


class Retention:
    """A trained sample's blob stays while a kept checkpoint could still be restored to before its step."""

    def __init__(self, context: Context, *, margin_s: float) -> None:
        self._context = context
        self._margin_s = margin_s

    async def clean(self) -> int:
        """One pass; returns how many blobs were deleted."""
        context, run_file = self._context, self._context.run_file
        control = await asyncio.to_thread(context.ledger.control)
        num_steps = run_file.checkpoints.keep_last * run_file.trainer.checkpoint_every_steps
        oldest_restorable = control.step - num_steps
        before_step = max(0, oldest_restorable + 1)
        deleted = 0
        while True:
            expired = await asyncio.to_thread(
                context.ledger.expired_payloads,
                ended_before=context.clock() - self._margin_s,
                trained_before_step=before_step,
                limit=BLOBS_AT_ONCE,
            )
            if not expired:
                break
            await asyncio.to_thread(self._delete, expired)
            deleted += len(expired)
        await asyncio.to_thread(context.ledger.prune_batches, before_step=before_step)
        return deleted

    def _delete(self, payload_ids: Sequence[str]) -> None:
        for payload_id in payload_ids:
            try:
                self._context.blobs.delete(payload_id)
            except ForklightError as error:
                log.warning("blob was not deleted", extra={"blob": payload_id, "reason": str(error)})
        self._context.ledger.drop_payloads(payload_ids)
