"""Continuous batching: which samples run, what each has produced, when each ends. Synchronous, one thread.

    waiting groups --admit (as the engine has room)--> running --token by token--> finished
                                                          ^ one version per step: spans record it

The engine turns prompts into tokens; everything a trajectory has to say about them is kept here.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from forklight_core.wire import RoutingArrays
from forklight_rollout.groups import FinishedSample, FinishReason, GroupWork, SampleStart, Span
from forklight_rollout.ports import Engine, PromptStart, SequenceStart
from forklight_rollout.routing_log import RoutingLog


class Generator:
    """The samples of a pod between their lease and their submission."""

    def __init__(
        self, engine: Engine, *, stop_ids: Collection[int], clock: Callable[[], float] = time.time
    ) -> None:
        self.engine = engine
        self.num_tokens = 0
        self._stop_ids = frozenset(stop_ids)
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._running: dict[int, _Running] = {}
        self._num_keys = 0

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return sum(len(group.samples) for group in self._waiting)

    @property
    def is_idle(self) -> bool:
        return not self._running and not self._waiting

    def add(self, work: GroupWork) -> None:
        """Queue a group; its samples start as room appears, first come, first served."""
        if work.samples:
            self._num_keys += 1
            self._waiting.append(_Waiting(self._num_keys, work))

    def step(self) -> list[FinishedSample]:
        """Start what fits, advance every sequence by a token, return what ended."""
        self._admit()
        tokens = self.engine.step()
        self.num_tokens += len(tokens.keys)
        version = self.engine.version
        ended: list[tuple[int, FinishReason]] = []
        for key, token, logprob, raw_logprob in zip(
            tokens.keys, tokens.ids, tokens.logprobs, tokens.raw_logprobs, strict=True
        ):
            reason = self._running[key].accept(token, logprob, raw_logprob, version)
            if reason is not None:
                ended.append((key, reason))
        if tokens.routing is not None:
            for key, fed in zip(tokens.keys, tokens.routing, strict=True):
                self._running[key].note_routing(fed)
        return self._retire(ended)

    def cancel(self, sample_ids: Collection[str]) -> list[FinishedSample]:
        """Stop samples that nobody wants; those that had begun are returned as cancelled."""
        for group in self._waiting:
            group.samples = deque(sample for sample in group.samples if sample.sample_id not in sample_ids)
        self._waiting = deque(group for group in self._waiting if group.samples)
        keys = [key for key, running in self._running.items() if running.sample.sample_id in sample_ids]
        return self._retire([(key, FinishReason.CANCELLED) for key in keys])

    def unstarted_groups(self) -> list[str]:
        """Groups of which no sample runs or has ended here."""
        return [
            group.work.group_id for group in self._waiting if len(group.samples) == len(group.work.samples)
        ]

    def _admit(self) -> None:
        room = self.engine.limits.num_sequences - len(self._running)
        while room > 0 and self._waiting:
            group = self._waiting[0]
            samples = [group.samples.popleft() for _ in range(min(room, len(group.samples)))]
            room -= len(samples)
            self._start(group, samples)
            if not group.samples:
                self._waiting.popleft()

    def _start(self, group: _Waiting, samples: Sequence[SampleStart]) -> None:
        now = self._clock()
        started = []
        for sample in samples:
            self._num_keys += 1
            self._running[self._num_keys] = _Running(group.work, sample, self._stop_ids, now)
            started.append(SequenceStart(key=self._num_keys, seed=sample.seed))
        rules = group.work.rules
        self.engine.admit(
            PromptStart(
                group=group.key,
                prompt_ids=group.work.prompt_ids,
                temperature=rules.temperature,
                top_p=rules.top_p,
                sequences=tuple(started),
            )
        )

    def _retire(self, ended: Iterable[tuple[int, FinishReason]]) -> list[FinishedSample]:
        pairs = list(ended)
        if not pairs:
            return []
        self.engine.retire([key for key, _ in pairs])
        now = self._clock()
        return [self._running.pop(key).finish(reason, now) for key, reason in pairs]


class _Waiting:
    """A group some of whose samples have not started."""

    __slots__ = ("key", "samples", "work")

    def __init__(self, key: int, work: GroupWork) -> None:
        self.key = key
        self.work = work
        self.samples = deque(work.samples)


class _Running:
    """One sample and the tokens it has so far. `accept` is on the hot path: once a token."""

    __slots__ = (
        "_certain",
        "_certain_limit",
        "_ids",
        "_logprobs",
        "_max_new_tokens",
        "_num_certain",
        "_raw_logprobs",
        "_routing",
        "_spans",
        "_started_at",
        "_stop_ids",
        "_version",
        "_work",
        "sample",
    )

    def __init__(self, work: GroupWork, sample: SampleStart, stop_ids: frozenset[int], now: float) -> None:
        rules = work.rules
        self.sample = sample
        self._work = work
        self._stop_ids = stop_ids
        self._started_at = now
        self._ids = array("i")
        self._logprobs = array("f")
        self._raw_logprobs = array("f")
        self._routing: RoutingLog | None = None
        self._spans: list[Span] = []
        self._version = -1
        self._max_new_tokens = rules.max_new_tokens
        self._num_certain = 0
        self._certain_limit = rules.repetition_tokens
        self._certain = math.log(rules.repetition_probability) if rules.repetition_tokens else 0.0

    def accept(self, token: int, logprob: float, raw_logprob: float, version: int) -> FinishReason | None:
        """Take the next token; the reason when it was the last one."""
        if version != self._version:
            self._spans.append(Span(start=len(self._ids), version=version))
            self._version = version
        self._ids.append(token)
        self._logprobs.append(logprob)
        self._raw_logprobs.append(raw_logprob)
        if token in self._stop_ids:
            return FinishReason.STOP
        # The model's own probability: at the sampling distribution a greedy sample would always be certain.
        self._num_certain = self._num_certain + 1 if raw_logprob > self._certain else 0
        if self._certain_limit and self._num_certain >= self._certain_limit:
            return FinishReason.REPETITION
        return FinishReason.LENGTH if len(self._ids) >= self._max_new_tokens else None

    def note_routing(self, fed: RoutingArrays) -> None:
        """Choices for what was fed to get the newest token."""
        if self._routing is None:
            self._routing = RoutingLog(fed)
        else:
            self._routing.add(fed)

    def finish(self, reason: FinishReason, now: float) -> FinishedSample:
        return FinishedSample(
            sample_id=self.sample.sample_id,
            group_id=self._work.group_id,
            prompt_ids=self._work.prompt_ids,
            response_ids=self._ids,
            logprobs=self._logprobs,
            raw_logprobs=self._raw_logprobs,
            spans=tuple(self._spans),
            reason=reason,
            started_at=self._started_at,
            finished_at=now,
            routing=None if self._routing is None else self._routing.close(),
        )
