"""Follows the announced weights: verifies and stages a version beside decoding, swaps between two steps.

Whatever is wrong with a version, the old weights stay in use and the reason is reported; the same version is
tried again after a pause that doubles, a newer one at the next poll.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_core.errors import ForklightError, UnavailableError, WeightsError
from forklight_core.lifecycle import sleep_or_stop
from forklight_rollout import metrics
from forklight_rollout.engine_thread import EngineThread
from forklight_rollout.generator import Generator
from forklight_rollout.manifest import PublishedWeights, verify_weights
from forklight_rollout.ports import Engine, EngineFactory
from forklight_rollout.problems import Area, Problems

log = logging.getLogger(__name__)

LONGEST_RETRY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstWeights:
    """What a pod begins with."""

    weights: PublishedWeights
    engine: Engine


class WeightsWatcher:
    """One a pod."""

    def __init__(
        self,
        read: Callable[[], Awaitable[types_pb2.WeightsRef | None]],
        *,
        run_id: str,
        problems: Problems,
        poll_s: float,
    ) -> None:
        self.last_swap_s = 0.0
        self._read = read
        self._run_id = run_id
        self._problems = problems
        self._poll_s = poll_s
        self._refused = _Refused()
        self._in_use: PublishedWeights | None = None

    async def wait_first(self, make_engine: EngineFactory, stop: asyncio.Event) -> FirstWeights | None:
        """The first sound weights and an engine that has them; None when told to stop before that."""
        self._problems.report(
            Area.WEIGHTS, "no weights announced yet; waiting for the trainer's first version"
        )
        while True:
            weights = await self._find_new()
            if weights is not None:
                try:
                    engine = await asyncio.to_thread(make_engine, weights)
                except WeightsError as error:
                    self._refuse(weights.manifest_id, error)
                else:
                    self._accept(weights)
                    return FirstWeights(weights=weights, engine=engine)
            if await sleep_or_stop(stop, self._poll_s):
                return None

    async def run(self, engine: Engine, thread: EngineThread, stop: asyncio.Event) -> None:
        """Follow new versions until told to stop."""
        while not await sleep_or_stop(stop, self._poll_s):
            weights = await self._find_new()
            if weights is None:
                continue
            try:
                await self._put_in_use(weights, engine, thread)
            except WeightsError as error:
                self._refuse(weights.manifest_id, error)
            else:
                self._accept(weights)

    async def _find_new(self) -> PublishedWeights | None:
        """Newly announced weights, verified; None when there are none or they are not sound."""
        try:
            announced = await self._read()
        except UnavailableError as error:
            self._problems.report(Area.REDIS, str(error))
            return None
        self._problems.clear(Area.REDIS)
        if announced is None or not self._is_wanted(announced.manifest_id):
            return None
        try:
            return await asyncio.to_thread(
                verify_weights,
                Path(announced.manifest),
                announced.manifest_id,
                version=announced.version,
                run_id=self._run_id,
            )
        except WeightsError as error:
            self._refuse(announced.manifest_id, error)
            return None

    def _is_wanted(self, manifest_id: str) -> bool:
        if self._in_use is not None and manifest_id == self._in_use.manifest_id:
            return False
        return manifest_id != self._refused.manifest_id or time.monotonic() >= self._refused.retry_at

    async def _put_in_use(self, weights: PublishedWeights, engine: Engine, thread: EngineThread) -> None:
        started = time.monotonic()
        self._require_same_text(weights)
        await asyncio.to_thread(engine.stage, weights)
        stage_s = time.monotonic() - started
        self.last_swap_s = await thread.call(_swap_timed)
        metrics.record_swap(stage_s=stage_s, swap_s=self.last_swap_s)
        log.info(
            "weights swapped",
            extra={
                "version": weights.version,
                "stage_s": round(stage_s, 4),
                "swap_s": round(self.last_swap_s, 6),
            },
        )

    def _require_same_text(self, weights: PublishedWeights) -> None:
        """Running sequences keep the tokenizer and the numeric contract they began with."""
        before = self._in_use
        if before is None:
            return
        if weights.manifest.contract != before.manifest.contract:
            raise WeightsError(
                f"version {weights.version} has the contract {weights.manifest.contract!r}, this pod runs "
                f"{before.manifest.contract!r}: restart the rollout pods"
            )
        if weights.tokenizer_hash != before.tokenizer_hash:
            raise WeightsError(
                f"version {weights.version} comes with another tokenizer: restart the rollout pods"
            )

    def _accept(self, weights: PublishedWeights) -> None:
        self._in_use = weights
        self._refused = _Refused()
        self._problems.clear(Area.WEIGHTS)

    def _refuse(self, manifest_id: str, error: ForklightError) -> None:
        again = self._refused.manifest_id == manifest_id
        pause_s = min(self._refused.pause_s * 2, LONGEST_RETRY_S) if again else self._poll_s
        self._refused = _Refused(
            manifest_id=manifest_id, pause_s=pause_s, retry_at=time.monotonic() + pause_s
        )
        log.error("weights refused", extra={"manifest_id": manifest_id, "reason": str(error)})
        metrics.count_refused_weights()
        self._problems.report(Area.WEIGHTS, str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """The version refused last, and when to look at it again."""

    manifest_id: str = ""
    pause_s: float = 0.0
    retry_at: float = 0.0


def _swap_timed(generator: Generator) -> float:
    """Swap between two steps; the seconds that decoding stood still."""
    started = time.perf_counter()
    generator.engine.swap()
    return time.perf_counter() - started
