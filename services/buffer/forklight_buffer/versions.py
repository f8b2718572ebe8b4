"""Announced policy versions: never backwards within an epoch, never two sets of weights under one number."""

from __future__ import annotations

import asyncio

from forklight.v1 import types_pb2
from forklight_buffer.batches import Batches
from forklight_buffer.context import Context
from forklight_buffer.evaluation.last_round import LastRound
from forklight_buffer.evaluation.rounds import Evaluator
from forklight_buffer.records import Control, Weights
from forklight_buffer.states import Phase
from forklight_core.errors import InvalidInputError, PreconditionError


class Versions:
    """Takes announcements from the trainer of the current epoch."""

    def __init__(
        self, context: Context, batches: Batches, evaluator: Evaluator, last_round: LastRound
    ) -> None:
        self._context = context
        self._batches = batches
        self._evaluator = evaluator
        self._last_round = last_round

    async def announce(self, epoch: int, message: types_pb2.WeightsRef) -> int:
        """Returns the newest version; an older one, or the same weights again, changes nothing."""
        if not message.manifest or not message.manifest_id:
            raise InvalidInputError(f"version {message.version} names no manifest: publish the weights first")
        context = self._context
        async with context.turn:
            control = await self._batches.check_epoch(epoch)
            weights = Weights(
                version=message.version,
                manifest=message.manifest,
                manifest_id=message.manifest_id,
                epoch=epoch,
            )
            if await self._is_news(weights, control):
                await asyncio.to_thread(context.ledger.announce, weights, context.clock())
                await context.record(
                    "version", f"version {weights.version} of epoch {epoch}: {weights.manifest}"
                )
            newest = max(message.version, control.version)
            if newest == message.version:
                await context.live.set_run({"version": str(newest)}, weights=message.SerializeToString())
                if control.phase is not Phase.FINISHED:
                    await self._evaluator.note_version(newest)
                    await self._last_round.look_now()
        context.notify_all()
        return newest

    async def _is_news(self, weights: Weights, control: Control) -> bool:
        if weights.version < control.version:
            return False
        known = await asyncio.to_thread(self._context.ledger.newest_weights)
        if known is None or known.version != weights.version:
            return True
        if known.manifest_id == weights.manifest_id and known.manifest == weights.manifest:
            return False
        if known.epoch == weights.epoch:
            raise PreconditionError(
                f"version {weights.version} was announced with {known.manifest_id} already, and now with "
                f"{weights.manifest_id}: a version is one set of weights; announce the next number"
            )
        return True
