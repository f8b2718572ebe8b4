"""Continuous batching: which samples run, what each has produced, when each ends. Synchronous, one thread.

    waiting groups --admit (as the engine has room)--> running --token by token--> finished
                                                          ^ every token says its version: spans record it

The engine turns prompts into tokens and says when its rules end a sequence; everything a trajectory has to
say about them is kept here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from forklight_rollout.draft import Draft
from forklight_rollout.groups import FinishedSample, GroupWork, OpenSample, SampleStart
from forklight_rollout.ports import Engine, FinishReason, PromptStart, SequenceStart, StepTokens
from forklight_rollout.text_stops import TextStops

Decode = Callable[[list[int]], str]


class Generator:
    """The samples of a pod between their lease and their submission."""

    def __init__(
        self, engine: Engine, *, decode: Decode | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.engine = engine
        self.num_tokens = 0
        self.is_admitting = True
        """False keeps what waits waiting; what runs goes on."""
        self._decode = decode
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
        """Nothing to do until something changes."""
        return not self._running and not (self._waiting and self.is_admitting)

    def add(self, work: GroupWork) -> None:
        """Queue a group; its samples start as room appears, first come, first served."""
        if work.samples:
            self._num_keys += 1
            self._waiting.append(_Waiting(self._num_keys, work, work.samples))

    def step(self) -> list[FinishedSample]:
        """Start what fits, go on with every sequence, return what ended."""
        if self.is_admitting:
            self._admit()
        tokens = self.engine.step()
        self.num_tokens += len(tokens.keys)
        return self._finish(self._accept(tokens))

    def cancel(self, sample_ids: Collection[str]) -> list[FinishedSample]:
        """Stop samples that nobody wants; those that had begun are returned as cancelled."""
        self._drop_waiting(sample_ids)
        keys = [key for key, running in self._running.items() if running.start.sample_id in sample_ids]
        self.engine.retire(keys)
        return self._finish([(key, FinishReason.CANCELLED) for key in keys])

    def interrupt(self, sample_ids: Collection[str]) -> list[OpenSample]:
        """Stop samples so that another pod can go on with them; returns what is not saved of each."""
        dropped = self._drop_waiting(sample_ids)
        keys = [key for key, running in self._running.items() if running.start.sample_id in sample_ids]
        self.engine.retire(keys)
        dropped += [self._running.pop(key) for key in keys]
        return [running.read() for running in dropped if running.num_unsaved]

    def read_unsaved(self, min_tokens: int) -> list[OpenSample]:
        """What running samples have beyond their saved tokens, where it is at least so much."""
        return [
            running.read()
            for running in self._running.values()
            if running.num_unsaved >= min_tokens and running.start.listener is None
        ]

    def note_saved(self, sample_id: str, num_tokens: int) -> None:
        """So many first tokens of a sample are safe elsewhere."""
        for running in self._running.values():
            if running.start.sample_id == sample_id:
                running.draft.num_saved, running.draft.is_held_back = num_tokens, False

    def begin_again(self, *, keeps_tokens: bool) -> list[str]:
        """Prefill every running sample anew, under the weights of now; without its tokens, from its prompt.

        Returns the samples that lost saved tokens: nothing of them is saved until `note_saved`. What somebody
        reads as it comes keeps its tokens anyway.
        """
        again: dict[int, _Waiting] = {}
        lost: list[str] = []
        self.engine.retire(list(self._running))
        for running in self._running.values():
            start = running.start
            if keeps_tokens or start.listener is not None:
                start = replace(start, draft=running.draft)
            else:
                is_lost = running.draft.num_saved > 0 or running.draft.is_held_back
                lost += [start.sample_id] if is_lost else []
                start = replace(start, draft=Draft(is_held_back=is_lost))
            group = again.get(id(running.work))
            if group is None:
                self._num_keys += 1
                group = again[id(running.work)] = _Waiting(self._num_keys, running.work, ())
            group.samples.append(start)
        self._running.clear()
        self._waiting.extendleft(reversed(again.values()))
        return lost

    def unstarted_groups(self) -> list[str]:
        """Groups of which no sample runs or has ended here."""
        return [
            group.work.group_id
            for group in self._waiting
            if len(group.samples) == len(group.work.samples)
            and not any(sample.draft for sample in group.samples)
        ]

    def _drop_waiting(self, sample_ids: Collection[str]) -> list[_Running]:
        """Forget samples that wait; those that had begun."""
        begun = []
        for group in self._waiting:
            dropped = [sample for sample in group.samples if sample.sample_id in sample_ids]
            begun += [_Running(group.work, sample, self._clock(), None) for sample in dropped if sample.draft]
            group.samples = deque(sample for sample in group.samples if sample.sample_id not in sample_ids)
        self._waiting = deque(group for group in self._waiting if group.samples)
        return begun

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
        now, work = self._clock(), group.work
        started = []
        for sample in samples:
            self._num_keys += 1
            running = _Running(work, sample, now, self._decode)
            self._running[self._num_keys] = running
            started.append(
                SequenceStart(
                    key=self._num_keys,
                    seed=sample.seed,
                    prefix_ids=tuple(running.draft.ids),
                    num_certain=running.draft.count_certain(work.end),
                )
            )
        self.engine.admit(
            PromptStart(
                group=group.key,
                prompt_ids=work.prompt_ids,
                draw=work.draw,
                end=work.end,
                sequences=tuple(started),
            )
        )

    def _accept(self, tokens: StepTokens) -> list[tuple[int, FinishReason]]:
        """Note the new tokens; the sequences that end, and why."""
        ended: list[tuple[int, FinishReason]] = []
        stopped: set[int] = set()
        for place, (key, token, logprob, raw_logprob, reason) in enumerate(
            zip(tokens.keys, tokens.ids, tokens.logprobs, tokens.raw_logprobs, tokens.reasons, strict=True)
        ):
            if key in stopped:
                continue  # drawn after a stop string, before the engine heard of it
            running = self._running[key]
            running.draft.add(token, logprob, raw_logprob, tokens.version)
            if tokens.routing is not None:
                running.draft.note_routing(len(running.work.prompt_ids), tokens.routing[place])
            if running.start.listener is not None:
                running.start.listener.take(token, logprob, raw_logprob)
            if reason is None and running.text_stops is not None and running.text_stops.accept(token):
                stopped.add(key)
                reason = FinishReason.STOP
            if reason is not None:
                ended.append((key, reason))
        if stopped:
            self.engine.retire(sorted(stopped))
        return ended

    def _finish(self, ended: Iterable[tuple[int, FinishReason]]) -> list[FinishedSample]:
        """What has ended; a sample with a listener goes to that one only."""
        now, finished = self._clock(), []
        for key, reason in ended:
            running = self._running.pop(key)
            sample = running.finish(reason, now)
            if running.start.listener is None:
                finished.append(sample)
            else:
                running.start.listener.finish(sample)
        return finished


class _Waiting:
    """A group some of whose samples have not started."""

    __slots__ = ("key", "samples", "work")

    def __init__(self, key: int, work: GroupWork, samples: Iterable[SampleStart]) -> None:
        self.key = key
        self.work = work
        self.samples = deque(samples)


class _Running:
    """One sample and the tokens it has so far."""

    __slots__ = ("draft", "start", "started_at", "text_stops", "work")

    def __init__(self, work: GroupWork, start: SampleStart, now: float, decode: Decode | None) -> None:
        self.work = work
        self.start = start
        self.started_at = now
        self.draft = Draft() if start.draft is None else start.draft
        self.text_stops = TextStops(work.stop_strings, decode) if work.stop_strings and decode else None

    @property
    def num_unsaved(self) -> int:
        """Tokens that could be saved now."""
        return 0 if self.draft.is_held_back else len(self.draft) - self.draft.num_saved

    def read(self) -> OpenSample:
        """What is not saved yet."""
        return OpenSample(
            sample_id=self.start.sample_id,
            group_id=self.work.group_id,
            prompt_ids=self.work.prompt_ids,
            response=self.draft.stretch(self.draft.num_saved, num_prompt=len(self.work.prompt_ids)),
        )

    def finish(self, reason: FinishReason, now: float) -> FinishedSample:
        return FinishedSample(
            sample_id=self.start.sample_id,
            group_id=self.work.group_id,
            prompt_ids=self.work.prompt_ids,
            response=self.draft.stretch(),
            reason=reason,
            started_at=self.started_at,
            finished_at=now,
        )
