"""Responses in stretches: what a pod saves of an unfinished one, and how the next pod goes on from it.

`join` undoes `cut`. A segment that cannot be read or used is dropped at the buffer, with those behind it, and
generated again: a failure of the machinery is never a shorter response.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from forklight.v1 import types_pb2
from forklight_core.errors import (
    DataLossError,
    InvalidInputError,
    NotFoundError,
)
from forklight_core.wire import RoutingArrays, TrajectoryArrays, pack_payload, unpack_payload
from forklight_core.wire import Span as WireSpan
from forklight_rollout.generation.draft import DRAWN, Draft, Span, Stretch, restore_draft
from forklight_rollout.generation.groups import FinishedSample, OpenSample
from forklight_rollout.leases.blob_calls import BlobCalls
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.ports import PendingSample, Saved, SegmentRef, SubmitOutcome

log = logging.getLogger(__name__)

UNUSABLE = (NotFoundError, DataLossError, InvalidInputError)
Result = TypeVar("Result")


def join(parts: Sequence[TrajectoryArrays]) -> TrajectoryArrays:
    """Segments in order, from token 0 on, as one; DataLossError when they do not belong together."""
    for before, part in zip([None, *parts], parts, strict=False):
        fault = find_fault(before, part)
        if fault:
            raise DataLossError(f"segment at {part.start} of {part.sample_id} {fault}")
    drawn = None
    if any(part.drawn is not None for part in parts):
        drawn = np.concatenate([_drawn(part) for part in parts])
    return replace(
        parts[0],
        response_ids=np.concatenate([part.response_ids for part in parts]),
        logprobs=np.concatenate([part.logprobs for part in parts]),
        raw_logprobs=np.concatenate([part.raw_logprobs for part in parts]),
        drawn=drawn,
        spans=_merge([span for part in parts for span in part.spans]),
        routing=_join_routing([part.routing for part in parts if part.routing is not None]),
    )


def cut(arrays: TrajectoryArrays, start: int, end: int | None = None) -> TrajectoryArrays:
    """The tokens `start` to `end` (its own end by default) of a response that begins at token 0."""
    end = arrays.end if end is None else end
    if arrays.start or not 0 <= start < end <= arrays.end:
        raise InvalidInputError(
            f"{arrays.sample_id} has tokens {arrays.start} to {arrays.end}: "
            f"there is no segment {start} to {end} of a whole"
        )
    return replace(
        arrays,
        start=start,
        response_ids=arrays.response_ids[start:end],
        logprobs=arrays.logprobs[start:end],
        raw_logprobs=arrays.raw_logprobs[start:end],
        text="",
        drawn=None if arrays.drawn is None else arrays.drawn[start:end],
        spans=_spans_within(arrays.spans, start, end),
        routing=_cut_routing(arrays, start, end),
    )


def find_fault(before: TrajectoryArrays | None, part: TrajectoryArrays) -> str:
    """Why a segment cannot follow another (or begin a response); empty when it can."""
    if before is None:
        return f"does not begin at token 0 but at {part.start}" if part.start else ""
    if part.start != before.end:
        return f"does not begin where the one before ends, at {before.end}"
    if part.sample_id != before.sample_id:
        return f"follows one of another sample, {before.sample_id}"
    if not np.array_equal(part.prompt_ids, before.prompt_ids):
        return "follows one of another prompt"
    if part.contract != before.contract:
        return f"was made under numeric contract {part.contract!r}, the one before under {before.contract!r}"
    if _routing_shape(part) != _routing_shape(before):
        return f"has routing of shape {_routing_shape(part)}, the one before of {_routing_shape(before)}"
    return ""


def arrays_of(sample: OpenSample | FinishedSample, contract: str) -> TrajectoryArrays:
    """What a response, or a stretch of one, is on the wire; without its text."""
    response = sample.response
    drawn = np.frombuffer(response.drawn, dtype=np.uint8)
    return TrajectoryArrays(
        sample_id=sample.sample_id,
        prompt_ids=np.asarray(sample.prompt_ids, dtype=np.int32),
        response_ids=np.asarray(response.ids, dtype=np.int32),
        logprobs=np.asarray(response.logprobs, dtype=np.float32),
        raw_logprobs=np.asarray(response.raw_logprobs, dtype=np.float32),
        text="",
        contract=contract,
        routing=response.routing,
        start=response.start,
        drawn=None if (drawn == DRAWN).all() else drawn,
        spans=tuple(WireSpan(start=span.start, version=span.version) for span in response.spans),
    )


def stretch_of(arrays: TrajectoryArrays) -> Stretch:
    """What arrays are to a draft."""
    return Stretch(
        start=arrays.start,
        ids=array("i", arrays.response_ids.tolist()),
        logprobs=array("f", arrays.logprobs.tolist()),
        raw_logprobs=array("f", arrays.raw_logprobs.tolist()),
        drawn=_drawn(arrays).tobytes(),
        spans=tuple(Span(start=span.start, version=span.version) for span in arrays.spans),
        routing=arrays.routing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStore:
    """Saves and loads; patient with a full or absent store while the group is ours (else FencedError)."""

    blobs: BlobCalls
    buffer: BufferCalls
    contract: str

    async def save(self, sample: OpenSample, group: HeldGroup) -> Saved:
        """Put a stretch where the next pod finds it. The reply says how much of the response is safe then;
        with DROPPED nobody wants the sample any more."""
        if group.task.purpose != types_pb2.PURPOSE_TRAIN:
            # Nobody scores it again.
            sample = replace(sample, response=replace(sample.response, routing=None))
        arrays = await asyncio.to_thread(lambda: _without_unread(arrays_of(sample, self.contract)))
        if not len(arrays.response_ids):
            return Saved(outcome=SubmitOutcome.DUPLICATE, num_saved_tokens=arrays.start)
        data = await asyncio.to_thread(pack_payload, arrays)
        segment = SegmentRef(
            start=arrays.start,
            num_tokens=len(arrays.response_ids),
            payload=await self.blobs.put(lambda: data, group),
            min_version=min(span.version for span in arrays.spans),
        )
        try:
            return await self.buffer.save_segment(sample.sample_id, segment, group)
        except InvalidInputError:
            num_saved = await self._count_saved(sample.sample_id, group)
            if not segment.start < num_saved <= segment.end:
                raise
            # A shorter stretch was saved from there on and the reply was lost: only we save under this lease.
            return Saved(outcome=SubmitOutcome.DUPLICATE, num_saved_tokens=num_saved)

    async def _count_saved(self, sample_id: str, group: HeldGroup) -> int:
        pending = await self.buffer.pending_responses(group)
        return sum(found.num_saved_tokens for found in pending if found.name(group.group_id) == sample_id)

    async def load(self, pending: PendingSample, prompt_ids: Sequence[int], group: HeldGroup) -> Draft | None:
        """What can be gone on from; None when that is nothing."""
        sample_id = pending.name(group.group_id)
        parts: list[TrajectoryArrays] = []
        for segment in pending.segments:
            try:
                part = await self._read(segment, group)
                self._check(part, sample_id, segment, prompt_ids)
                fault = find_fault(parts[-1] if parts else None, part)
                if fault:
                    raise DataLossError(f"segment at {part.start} of {sample_id} {fault}")
            except UNUSABLE as error:
                log.warning("segment is unusable", extra={"sample_id": sample_id, "reason": str(error)})
                await self.buffer.drop_segments(sample_id, segment.start, group)
                break
            parts.append(part)
        return restore_draft(stretch_of(join(parts))) if parts else None

    async def _read(self, segment: SegmentRef, group: HeldGroup) -> TrajectoryArrays:
        data = await self.blobs.get(segment.payload.id, group)
        return await asyncio.to_thread(unpack_payload, data)

    def _check(
        self, part: TrajectoryArrays, sample_id: str, segment: SegmentRef, prompt_ids: Sequence[int]
    ) -> None:
        """It is what the buffer says, and what this pod can go on with."""
        where = f"segment at {segment.start} of {sample_id}"
        if (part.sample_id, part.start, part.end) != (
            sample_id,
            segment.start,
            segment.end,
        ) or not part.spans:
            raise DataLossError(f"{where} holds tokens {part.start} to {part.end} of {part.sample_id}")
        if part.prompt_ids.tolist() != list(prompt_ids):
            raise DataLossError(f"{where} follows other prompt tokens than this pod's tokenizer makes")
        if part.contract != self.contract:
            raise DataLossError(
                f"{where} was made under numeric contract {part.contract!r}, this pod's is {self.contract!r}"
            )


def _without_unread(arrays: TrajectoryArrays) -> TrajectoryArrays:
    """Without tokens put in last, which the model has not been fed yet: their routing is still to come."""
    if arrays.routing is None:
        return arrays
    num_read = len(arrays.response_ids) - (arrays.num_fed - len(arrays.routing.experts))
    return replace(
        arrays,
        response_ids=arrays.response_ids[:num_read],
        logprobs=arrays.logprobs[:num_read],
        raw_logprobs=arrays.raw_logprobs[:num_read],
        drawn=None if arrays.drawn is None else arrays.drawn[:num_read],
        spans=_spans_within(arrays.spans, arrays.start, arrays.start + num_read),
    )


def _drawn(arrays: TrajectoryArrays) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    if arrays.drawn is None:
        return np.full(len(arrays.response_ids), DRAWN, dtype=np.uint8)
    return arrays.drawn


def _merge(spans: Sequence[WireSpan]) -> tuple[WireSpan, ...]:
    """A span that goes on with the version of the one before is none of its own."""
    merged: list[WireSpan] = []
    for span in spans:
        if not merged or span.version != merged[-1].version:
            merged.append(span)
    return tuple(merged)


def _spans_within(spans: Sequence[WireSpan], start: int, end: int) -> tuple[WireSpan, ...]:
    ends = [*(span.start for span in spans[1:]), end]
    return tuple(
        WireSpan(start=max(start, span.start), version=span.version)
        for span, behind in zip(spans, ends, strict=True)
        if span.start < end and behind > start
    )


def _routing_shape(arrays: TrajectoryArrays) -> tuple[int, ...] | None:
    return None if arrays.routing is None else arrays.routing.experts.shape[1:]


def _join_routing(parts: Sequence[RoutingArrays]) -> RoutingArrays | None:
    if not parts:
        return None
    return RoutingArrays(
        experts=np.concatenate([part.experts for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
    )


def _cut_routing(arrays: TrajectoryArrays, start: int, end: int) -> RoutingArrays | None:
    """Token `start` came of feeding the one before it: fed token P + start - 1."""
    if arrays.routing is None:
        return None
    num_before = len(arrays.prompt_ids) - 1
    fed = slice(num_before + start if start else 0, num_before + end)
    return RoutingArrays(experts=arrays.routing.experts[fed], weights=arrays.routing.weights[fed])
