"""Segments at the door: stretches of responses that are not finished, kept so that another pod can go on.

They live with their sample in Redis, in order and without a gap, and end when it gets its trajectory or ends.
"""

from __future__ import annotations

import asyncio
import logging

from forklight.v1 import types_pb2
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.endings import count_dropped_tokens
from forklight_buffer.intake import discard_payload
from forklight_buffer.live import LiveSegment, SegmentsNow
from forklight_buffer.states import Outcome
from forklight_core.errors import ForklightError, InvalidInputError, NotFoundError
from forklight_core.queues import Lease
from forklight_core.telemetry import counter

log = logging.getLogger(__name__)

UNREADABLE = "unreadable"
"""Why tokens are dropped when their holder says that it cannot read them."""


class Segments:
    """What rollout pods save and cannot read."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def save(self, sample_id: str, message: types_pb2.Segment, lease: Lease) -> SegmentsNow:
        """Append a segment to what is saved of its response."""
        segment = _read_segment(sample_id, message)
        # Generated once more after Redis had lost it, the same bytes may have been discarded.
        await asyncio.to_thread(self._context.ledger.keep_payloads, [segment.payload_id])
        try:
            now = await self._context.live.save_segment(sample_id, segment, lease)
        except NotFoundError:
            now = await self._ended(sample_id)
        if now.outcome is Outcome.ACCEPTED:
            counter(metrics.SAVED_TOKENS).add(segment.num_tokens)
        if now.outcome is Outcome.DROPPED:
            await discard_payload(self._context, sample_id, segment.payload_id)
        return now

    async def drop(self, sample_id: str, from_start: int, lease: Lease) -> SegmentsNow:
        """Forget segments that cannot be read, and those behind them. Their blobs go at once: what is
        generated again may have the same bytes, and must not be taken for the broken ones."""
        try:
            now = await self._context.live.drop_segments(sample_id, from_start, lease)
        except NotFoundError:
            now = await self._ended(sample_id)
        if now.dropped:
            await asyncio.to_thread(self._delete, now.dropped)
            count_dropped_tokens(now.num_dropped_tokens, UNREADABLE)
            await self._context.record(
                "segments_dropped",
                f"{sample_id}: {now.num_dropped_tokens} saved tokens from {from_start} on cannot be read",
            )
        return now

    async def _ended(self, sample_id: str) -> SegmentsNow:
        """A sample that is not open: nobody needs its tokens, or nobody ever opened it."""
        if await asyncio.to_thread(self._context.ledger.read_sample, sample_id):
            return SegmentsNow(outcome=Outcome.DROPPED)
        raise NotFoundError(f"sample {sample_id} was never opened in run {self._context.run_id}")

    def _delete(self, payload_ids: tuple[str, ...]) -> None:
        for payload_id in payload_ids:
            try:
                self._context.blobs.delete(payload_id)
            except ForklightError as error:
                log.warning("blob was not deleted", extra={"blob": payload_id, "reason": str(error)})


def _read_segment(sample_id: str, message: types_pb2.Segment) -> LiveSegment:
    """Refuse what cannot be stored: no tokens, no blob."""
    if not message.num_tokens:
        raise InvalidInputError(f"segment at {message.start} of {sample_id} has no tokens")
    if not message.payload.id:
        raise InvalidInputError(
            f"segment at {message.start} of {sample_id} names no payload blob: write the blob first"
        )
    return LiveSegment(
        start=message.start,
        num_tokens=message.num_tokens,
        payload_id=message.payload.id,
        payload_bytes=message.payload.size_bytes,
        min_version=message.min_version,
    )


def segment_message(segment: LiveSegment) -> types_pb2.Segment:
    """A segment for the wire."""
    return types_pb2.Segment(
        start=segment.start,
        num_tokens=segment.num_tokens,
        payload=types_pb2.BlobRef(id=segment.payload_id, size_bytes=segment.payload_bytes),
        min_version=segment.min_version,
    )
