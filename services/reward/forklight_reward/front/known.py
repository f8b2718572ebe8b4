"""Outcomes that are known: an answer that was judged is not judged again, by this process or the one before.

Bounded, in memory, refilled from the newest audit files at start: the audit log is the store on disk, so
there is no second truth that could disagree with it. Failures and abstentions are never kept. What exact
rules decide in this process costs less than a look-up and is not kept either.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from forklight_core.errors import DeadlineError
from forklight_reward.audit.evidence import bound, reference_of
from forklight_reward.front.keys import Content
from forklight_reward.ports import Outcome, Tier

MOST_KEPT = 16_384
TRUST_S = 60.0
"""A worker's version is taken for its version still, so long after it was last heard."""

Judge = Callable[[float], Awaitable[Outcome]]


class KnownOutcomes:
    """By work key; and what version the workers of each kind said they are."""

    def __init__(self, most_kept: int = MOST_KEPT, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: OrderedDict[str, Outcome] = OrderedDict()
        self._running: dict[str, asyncio.Future[None]] = {}
        self._versions: dict[str, tuple[str, float]] = {}
        self._most_kept, self._clock = most_kept, clock

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, work_key: str, outcome: Outcome) -> None:
        """Remember an outcome that is one."""
        if not outcome.is_scored or outcome.tier in ("", Tier.INLINE):
            return
        reference = reference_of(bound(outcome.detail)) if outcome.detail else outcome.detail_ref
        self._kept[work_key] = replace(outcome, detail="", detail_ref=reference, reused=True)
        self._kept.move_to_end(work_key)
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)

    async def judge_once(self, content: Content, judge: Judge, timeout_s: float) -> Outcome:
        """The known outcome, else what `judge` says. Of several that ask the same at once, one is judged."""
        end = self._clock() + timeout_s
        if (known := self._find(content)) is not None:
            return known
        name = content.work_key("")
        if (running := self._running.get(name)) is not None:
            await asyncio.wait({running}, timeout=timeout_s)
            if (known := self._find(content)) is not None:
                return known
            left_s = end - self._clock()
            if left_s <= 0:
                raise DeadlineError("the same answer is being judged, and took all of this try")
            return self._heard(content, await judge(left_s))
        first = self._running[name] = asyncio.get_running_loop().create_future()
        try:
            return self._heard(content, await judge(timeout_s))
        finally:
            del self._running[name]
            first.set_result(None)

    def _heard(self, content: Content, outcome: Outcome) -> Outcome:
        if outcome.tier not in ("", Tier.INLINE) and outcome.worker_version:
            self._versions[content.kind] = (outcome.worker_version, self._clock())
            self.keep(content.work_key(outcome.worker_version), outcome)
        return outcome

    def _find(self, content: Content) -> Outcome | None:
        """Under the version last heard; a worker that was not heard for long may be another now."""
        version, heard_at = self._versions.get(content.kind, ("", 0.0))
        if not version or self._clock() - heard_at > TRUST_S:
            return None
        return self._kept.get(content.work_key(version))
