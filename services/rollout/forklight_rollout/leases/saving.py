"""Saves running responses segment by segment, so that a pod that dies or leaves costs at most one segment.

every CHECK_S: running samples with segment_tokens unsaved --SegmentStore--> blobs, buffer
before a group is handed back: whatever its samples have
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from forklight_core.errors import FencedError, ForklightError, UnavailableError
from forklight_core.ids import group_of
from forklight_rollout import metrics
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import OpenSample
from forklight_rollout.leases.held_groups import HeldGroup, HeldGroups
from forklight_rollout.leases.segments import SegmentStore

log = logging.getLogger(__name__)

CHECK_S = 2.0
HAND_OVER_S = 20.0
"""A group's samples are saved within this before its lease goes back, or go on from their last save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSaver:
    """One a pod."""

    engine: EngineThread
    held: HeldGroups
    store: SegmentStore
    segment_tokens: int
    """Save a running sample whenever it has so many tokens more; 0: only before a group is handed back."""

    async def run(self) -> None:
        """Save as samples grow, for ever."""
        while self.segment_tokens:
            await asyncio.sleep(CHECK_S)
            try:
                await self._save_grown()
            except UnavailableError as error:
                log.warning("running samples are not saved", extra={"reason": str(error)})

    async def forget_saved(self, sample_ids: Sequence[str]) -> None:
        """These samples begin anew: nothing saved of them counts any more. Waits out an outage."""
        for sample_id in sample_ids:
            group = self.held.find(group_of(sample_id))
            if group is None:
                continue
            try:
                await self.store.buffer.drop_segments(sample_id, 0, group)
            except ForklightError as error:
                log.warning("saved tokens remain", extra={"sample_id": sample_id, "reason": str(error)})
            else:
                await self._note_saved(sample_id, 0)

    async def _save_grown(self) -> None:
        for sample in await self.engine.call(self._read_unsaved):
            group = self.held.find(sample.group_id)
            if group is not None:
                await self._save(sample, group)

    async def save_open(self, group: HeldGroup) -> None:
        """Stop a group's samples and save what they have."""
        open_samples = frozenset(group.open_samples)

        def interrupt(generator: Generator) -> list[OpenSample]:
            return generator.interrupt(open_samples)

        try:
            async with asyncio.timeout(HAND_OVER_S):
                for sample in await self.engine.call(interrupt):
                    await self._save(sample, group)
        except (TimeoutError, ForklightError) as error:
            log.warning("samples not saved", extra={"group_id": group.group_id, "reason": repr(error)})

    def _read_unsaved(self, generator: Generator) -> list[OpenSample]:
        return generator.read_unsaved(self.segment_tokens)

    async def _save(self, sample: OpenSample, group: HeldGroup) -> None:
        """What cannot be saved now is saved with the next segment."""
        try:
            saved = await self.store.save(sample, group)
        except FencedError:
            return  # the lease keeper will hear of it, too
        except ForklightError as error:
            log.warning("segment not saved", extra={"sample_id": sample.sample_id, "reason": str(error)})
            return
        metrics.count_saved_tokens(max(0, saved.num_saved_tokens - sample.response.start))
        await self._note_saved(sample.sample_id, saved.num_saved_tokens)

    async def _note_saved(self, sample_id: str, num_tokens: int) -> None:
        await self.engine.call(lambda generator: generator.note_saved(sample_id, num_tokens))
