"""Follows the announced weights: verifies and stages them beside decoding, swaps and proves between steps.

Whatever is wrong with a version before the swap, the old weights stay in use; a version that fails the probe
after it takes the pod out of service. The reason is reported; the same version is tried again after a pause
that doubles, a newer one at the next poll. Of several announced versions only the newest is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_core.errors import BusyError, UnavailableError, WeightsError
from forklight_core.lifecycle import sleep_or_stop
from forklight_rollout import metrics
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.ports import Engine, EngineFactory
from forklight_rollout.problems import Area, Problems
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.probe import ProbeOutcome, ProbeResult, run_probe
from forklight_rollout.weights.source import SharedFolder, WeightsSource
from forklight_rollout.weights.swap_policy import (
    SavedTokens,
    SwapPolicy,
    SwapResult,
    SwapRules,
    hold_back,
    let_in,
    swap_weights,
)

log = logging.getLogger(__name__)

LONGEST_RETRY_S = 30.0
PROBE_RETRY_S = 30.0
"""After a failed probe the first pause: whatever is wrong with the pod is hardly over in a moment."""
LONGEST_PROBE_RETRY_S = 600.0
MOST_CHASES = 3
"""How often a version is let go for one announced while it was verified; then it is used all the same."""


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
        rules: SwapRules | None = None,
        source: WeightsSource | None = None,
    ) -> None:
        self.rules = rules or SwapRules()
        self.last_swap_s = 0.0
        self.last_probe: ProbeResult | None = None
        self.waiting: PublishedWeights | None = None
        """Staged, and held up by samples that end first."""
        self.saved: SavedTokens | None = None
        """Who is told of samples that begin anew."""
        self._read, self._source = read, source or SharedFolder()
        self._run_id = run_id
        self._problems = problems
        self._poll_s = poll_s
        self._refused = _Refused()
        self._began_with: PublishedWeights | None = None
        self._in_use = ""  # manifest id; empty when what the engine has is not to be used
        self._has_warned = False
        self._stage_s = 0.0

    async def wait_first(self, make_engine: EngineFactory, stop: asyncio.Event) -> FirstWeights | None:
        """The first sound weights and an engine proven with them; None when told to stop before that."""
        self._problems.report(
            Area.WEIGHTS, "no weights announced yet; waiting for the trainer's first version"
        )
        while True:
            weights = await self._find_new()
            engine = await self._begin(weights, make_engine) if weights is not None else None
            if weights is not None and engine is not None:
                return FirstWeights(weights=weights, engine=engine)
            if await sleep_or_stop(stop, self._poll_s):
                return None

    async def run(self, engine: Engine, thread: EngineThread, stop: asyncio.Event) -> None:
        """Follow new versions until told to stop, or until the engine is gone."""
        try:
            await self._follow(engine, thread, stop)
        except UnavailableError as error:
            log.warning("weights are no longer followed", extra={"reason": str(error)})

    async def _begin(self, weights: PublishedWeights, make_engine: EngineFactory) -> Engine | None:
        """An engine that has passed the probe."""
        try:
            engine = await asyncio.to_thread(make_engine, weights)
        except WeightsError as error:
            await self._refuse_torn(weights, error)
            return None
        probe = await asyncio.to_thread(run_probe, engine, weights, self.rules.probe_tolerance)
        return engine if self._judge(weights, probe) else None

    async def _follow(self, engine: Engine, thread: EngineThread, stop: asyncio.Event) -> None:
        while not await sleep_or_stop(stop, self._poll_s):
            weights = await self._find_new()
            if weights is None or not await self._stage(weights, engine):
                continue
            if self.rules.policy is SwapPolicy.FINISH:
                await self._let_running_end(engine, thread, stop)
            if not stop.is_set():
                await self._put_in_use(thread)
            self.waiting = None
            if self.last_probe is None or self.last_probe.is_sound:
                # Also after a swap that did not take place; behind a failed probe the door stays shut.
                await thread.call(let_in)

    async def _find_new(self) -> PublishedWeights | None:
        """Newly announced weights, verified: the newest of those announced meanwhile, if one is sound."""
        found: PublishedWeights | None = None
        for _ in range(MOST_CHASES):
            announced = await self._read_wanted()
            if announced is None or (found is not None and announced.manifest_id == found.manifest_id):
                break
            found = await self._verify(announced) or found
        return found

    async def _read_wanted(self) -> types_pb2.WeightsRef | None:
        """The announced weights, unless they are known already."""
        try:
            announced = await self._read()
        except UnavailableError as error:
            self._problems.report(Area.REDIS, str(error))
            return None
        self._problems.clear(Area.REDIS)
        return announced if announced is not None and self._is_wanted(announced.manifest_id) else None

    def _is_wanted(self, manifest_id: str) -> bool:
        if manifest_id == self._in_use or (self.waiting and manifest_id == self.waiting.manifest_id):
            return False
        return manifest_id != self._refused.manifest_id or time.monotonic() >= self._refused.retry_at

    async def _verify(self, announced: types_pb2.WeightsRef) -> PublishedWeights | None:
        try:
            return await asyncio.to_thread(self._source.open, announced, self._run_id)
        except (WeightsError, UnavailableError, BusyError) as error:
            self._refuse(announced.manifest_id, Area.WEIGHTS, str(error))
            return None

    async def _stage(self, weights: PublishedWeights, engine: Engine) -> bool:
        """Load beside what is in use; takes the place of what was staged before."""
        started = time.monotonic()
        try:
            self._require_same_text(weights)
            await asyncio.to_thread(engine.stage, weights)
        except WeightsError as error:
            await self._refuse_torn(weights, error)
            return False
        except UnavailableError as error:
            self._refuse(weights.manifest_id, Area.WEIGHTS, str(error))
            return False
        self._stage_s = time.monotonic() - started
        self.waiting = weights
        return True

    async def _let_running_end(self, engine: Engine, thread: EngineThread, stop: asyncio.Event) -> None:
        """Return when nothing runs, or the deadline is over; a newer version takes the staged one's place."""
        end = time.monotonic() + self.rules.finish_s
        await thread.call(hold_back)
        while (thread.reading.num_running or thread.reading.num_calling) and time.monotonic() < end:
            if await sleep_or_stop(stop, self._poll_s):
                return
            newer = await self._find_new()
            if newer is not None:
                await self._stage(newer, engine)

    async def _put_in_use(self, thread: EngineThread) -> None:
        weights, rules = self.waiting, self.rules
        if weights is None:
            return
        try:
            result = await thread.call(lambda generator: swap_weights(generator, weights, rules))
        except WeightsError as error:
            self._refuse(weights.manifest_id, Area.WEIGHTS, str(error))
            return
        self.last_swap_s = result.swap_s
        metrics.record_swap(stage_s=self._stage_s, swap_s=result.swap_s)
        self._log_swap(weights, result)
        self._judge(weights, result.probe)
        if result.lost and self.saved is not None:
            await self.saved.forget_saved(result.lost)

    def _log_swap(self, weights: PublishedWeights, result: SwapResult) -> None:
        log.info(
            "weights swapped",
            extra={
                "version": weights.version,
                "stage_s": round(self._stage_s, 4),
                "swap_s": round(result.swap_s, 6),
                "probe_s": round(result.probe.probe_s, 6),
                "policy": self.rules.policy.value,
                "num_begun_anew": len(result.lost),
            },
        )

    def _require_same_text(self, weights: PublishedWeights) -> None:
        """Running sequences keep the tokenizer and the numeric contract they began with."""
        before = self._began_with
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

    def _judge(self, weights: PublishedWeights, probe: ProbeResult) -> bool:
        """Note what the probe says of the weights the engine has now; False when nothing may be drawn."""
        self.last_probe = probe
        metrics.record_probe(agrees=probe.is_sound, difference=probe.max_difference)
        if not probe.is_sound:
            self._in_use = ""
            self._refuse(weights.manifest_id, Area.PROBE, probe.reason)
            return False
        if probe.outcome is not ProbeOutcome.ABSENT:
            log.info("probe passed", extra={"reason": probe.reason, "probe_s": round(probe.probe_s, 6)})
        elif not self._has_warned:
            self._has_warned = True
            log.warning(
                "weights are used unproven: their manifest has no probe", extra={"version": weights.version}
            )
        self._began_with = self._began_with or weights
        self._in_use = weights.manifest_id
        self._refused = _Refused()
        self._problems.clear(Area.WEIGHTS)
        self._problems.clear(Area.PROBE)
        return True

    async def _refuse_torn(self, weights: PublishedWeights, error: WeightsError) -> None:
        """A copy that turned out to be torn is made anew at the next try."""
        await asyncio.to_thread(self._source.discard, weights)
        self._refuse(weights.manifest_id, Area.WEIGHTS, str(error))

    def _refuse(self, manifest_id: str, area: Area, reason: str) -> None:
        is_probe = area is Area.PROBE
        first, longest = (
            (PROBE_RETRY_S, LONGEST_PROBE_RETRY_S) if is_probe else (self._poll_s, LONGEST_RETRY_S)
        )
        again = self._refused.manifest_id == manifest_id
        pause_s = min(max(first, self._refused.pause_s * 2), longest) if again else first
        self._refused = _Refused(
            manifest_id=manifest_id, pause_s=pause_s, retry_at=time.monotonic() + pause_s
        )
        log.error("weights refused", extra={"manifest_id": manifest_id, "area": area, "reason": reason})
        metrics.count_refused_weights()
        self._problems.report(area, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """The version refused last, and when to look at it again."""

    manifest_id: str = ""
    pause_s: float = 0.0
    retry_at: float = 0.0
