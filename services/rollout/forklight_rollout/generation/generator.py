"""Continuous batching: which samples run, what each has produced, when each ends. Synchronous, one thread.

    waiting groups --admit (as the engine has room)--> running --token by token--> finished
                                                        ^   |  every token says its version: spans record it
                                                        |   '--a whole call--> calling --ToolCall--> elsewhere
                                                        '--before all who wait-- answered <--resume(reply)--'

A sample in a call is open, but has no place in the engine: its reply is put in and it is admitted again with
all it has. A draft alone says how it stands: one that ends with a whole call is answered first, so a sample
that comes from another pod, or begins again, calls once more.

The engine turns prompts into tokens and says when its rules end a sequence; everything a trajectory has to
say about them is kept here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from forklight_rollout.generation.draft import Draft
from forklight_rollout.generation.groups import FinishedSample, GroupWork, OpenSample
from forklight_rollout.generation.tracked import BegunSample, Decode, WaitingGroup
from forklight_rollout.ports import Engine, FinishReason, PromptStart, StepTokens
from forklight_rollout.tools.ports import ToolCall

Ended = tuple[BegunSample, FinishReason]


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
        self._waiting: deque[WaitingGroup] = deque()
        self._running: dict[int, BegunSample] = {}
        self._calling: dict[int, BegunSample] = {}
        self._answered: deque[BegunSample] = deque()
        self._calls: list[ToolCall] = []
        self._num_keys = 0

    @property
    def num_running(self) -> int:
        """In the engine."""
        return len(self._running)

    @property
    def num_calling(self) -> int:
        """Begun, and in a call or on their way back from one."""
        return len(self._calling) + len(self._answered)

    @property
    def num_waiting(self) -> int:
        return sum(len(group.samples) for group in self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing to do until something changes; a reply that comes is a change."""
        return not (self._running or self._answered or (self._waiting and self.is_admitting))

    def add(self, work: GroupWork) -> None:
        """Queue a group; its samples start as room appears, first come, first served."""
        if work.samples:
            self._waiting.append(WaitingGroup(self._new_key(), work, work.samples))

    def step(self) -> list[FinishedSample]:
        """Start what fits, go on with every sequence, return what ended."""
        ended = self._admit()
        if self._running:
            tokens = self.engine.step()
            self.num_tokens += len(tokens.keys)
            ended += self._accept(tokens)
        return self._finish(ended)

    def take_calls(self) -> list[ToolCall]:
        """Calls that nobody has been given yet; each wants one `resume`."""
        calls, self._calls = self._calls, []
        return [call for call in calls if call.key in self._calling]

    def resume(self, key: int, reply_ids: Sequence[int]) -> bool:
        """The reply to a call, put in as far as it fits; False when nobody waits for it any more."""
        if not reply_ids:
            raise AssertionError("an empty reply would leave the call unanswered for ever")
        sample = self._calling.pop(key, None)
        if sample is None:
            return False
        sample.answer(reply_ids)
        self._answered.append(sample)
        return True

    def cancel(self, sample_ids: Collection[str]) -> list[FinishedSample]:
        """Stop samples that nobody wants; those that had begun are returned as cancelled."""
        self._drop_waiting(sample_ids)
        return self._finish([(sample, FinishReason.CANCELLED) for sample in self._take_out(sample_ids)])

    def interrupt(self, sample_ids: Collection[str]) -> list[OpenSample]:
        """Stop samples so that another pod can go on with them; returns what is not saved of each.

        One in a call has all up to the call: the other pod makes the call again.
        """
        dropped = [*self._drop_waiting(sample_ids), *self._take_out(sample_ids)]
        return [sample.read() for sample in dropped if sample.num_unsaved]

    def read_unsaved(self, min_tokens: int) -> list[OpenSample]:
        """What samples that have begun have beyond their saved tokens, where it is at least so much."""
        return [
            sample.read()
            for sample in self._begun()
            if sample.num_unsaved >= min_tokens and sample.start.listener is None
        ]

    def note_saved(self, sample_id: str, num_tokens: int) -> None:
        """So many first tokens of a sample are safe elsewhere."""
        drafts = [sample.draft for sample in self._begun() if sample.start.sample_id == sample_id]
        for group in self._waiting:
            drafts += [start.draft for start in group.samples if start.draft and start.sample_id == sample_id]
        for draft in drafts:
            draft.num_saved, draft.is_held_back = num_tokens, False

    def begin_again(self, *, keeps_tokens: bool) -> list[str]:
        """Prefill every begun sample anew, under the weights of now; without its tokens, from its prompt.

        One in a call waits like the others; if it keeps its tokens, it calls again.
        Returns the samples that lost saved tokens: nothing of them is saved until `note_saved`. What somebody
        reads as it comes keeps its tokens anyway.
        """
        again: dict[int, WaitingGroup] = {}
        lost: list[str] = []
        for sample in self._take_out(None):
            start = sample.start
            if keeps_tokens or start.listener is not None:
                start = replace(start, draft=sample.draft)
            else:
                is_lost = sample.draft.num_saved > 0 or sample.draft.is_held_back
                lost += [start.sample_id] if is_lost else []
                start = replace(start, draft=Draft(is_held_back=is_lost))
            group = again.get(id(sample.work))
            if group is None:
                group = again[id(sample.work)] = WaitingGroup(self._new_key(), sample.work, ())
            group.samples.append(start)
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

    def _new_key(self) -> int:
        self._num_keys += 1
        return self._num_keys

    def _begun(self) -> Iterator[BegunSample]:
        yield from self._running.values()
        yield from self._calling.values()
        yield from self._answered

    def _take_out(self, sample_ids: Collection[str] | None) -> list[BegunSample]:
        """Samples that have begun, out of engine, calls and line; None: all of them."""

        def is_meant(sample: BegunSample) -> bool:
            return sample_ids is None or sample.start.sample_id in sample_ids

        taken = [sample for sample in self._begun() if is_meant(sample)]
        self.engine.retire([key for key, sample in self._running.items() if is_meant(sample)])
        for samples in (self._running, self._calling):
            for key in [key for key, sample in samples.items() if is_meant(sample)]:
                del samples[key]
        self._answered = deque(sample for sample in self._answered if not is_meant(sample))
        return taken

    def _drop_waiting(self, sample_ids: Collection[str]) -> list[BegunSample]:
        """Forget samples that wait; those that had begun."""
        begun = []
        for group in self._waiting:
            dropped = [sample for sample in group.samples if sample.sample_id in sample_ids]
            begun += [
                BegunSample(group.work, sample, self._clock(), None) for sample in dropped if sample.draft
            ]
            group.samples = deque(sample for sample in group.samples if sample.sample_id not in sample_ids)
        self._waiting = deque(group for group in self._waiting if group.samples)
        return begun

    def _admit(self) -> list[Ended]:
        """Fill the engine's room; what ends at once is returned. Samples that come back from a call come
        first, and also while nothing new begins: they have begun."""
        ended: list[Ended] = []
        room = self.engine.limits.num_sequences - len(self._running)
        while room > 0 and self._answered:
            sample = self._answered.popleft()
            ended += self._start(self._new_key(), sample.work, [sample])
            room -= 1
        while room > 0 and self._waiting and self.is_admitting:
            group, now = self._waiting[0], self._clock()
            starts = [group.samples.popleft() for _ in range(min(room, len(group.samples)))]
            samples = [BegunSample(group.work, start, now, self._decode) for start in starts]
            ended += self._start(group.key, group.work, samples)
            room -= len(samples)
            if not group.samples:
                self._waiting.popleft()
        return ended

    def _start(self, group: int, work: GroupWork, samples: Sequence[BegunSample]) -> list[Ended]:
        """Give samples of a group to the engine; those that are full end, those with a call make it."""
        ended: list[Ended] = []
        started = []
        for sample in samples:
            if sample.num_left <= 0:
                ended.append((sample, FinishReason.LENGTH))
            elif not self._call_out(sample):
                key = self._new_key()
                self._running[key] = sample
                started.append(sample.sequence(key))
        if started:
            self.engine.admit(
                PromptStart(
                    group=group,
                    prompt_ids=work.prompt_ids,
                    draw=work.draw,
                    end=work.end,
                    sequences=tuple(started),
                )
            )
        return ended

    def _call_out(self, sample: BegunSample) -> bool:
        """Let a sample wait for the reply to the call that it ends with, if it does."""
        call = sample.call(self._new_key())
        if call is None:
            return False
        self._calling[call.key] = sample
        self._calls.append(call)
        return True

    def _accept(self, tokens: StepTokens) -> list[Ended]:
        """Note the new tokens; the samples that end, and why. Those that call leave the engine."""
        ended: list[Ended] = []
        stopped: set[int] = set()
        for place, (key, token, logprob, raw_logprob, reason) in enumerate(
            zip(tokens.keys, tokens.ids, tokens.logprobs, tokens.raw_logprobs, tokens.reasons, strict=True)
        ):
            if key in stopped:
                continue  # drawn after a stop string or a call, before the engine heard of it
            sample = self._running[key]
            sample.draft.add(token, logprob, raw_logprob, tokens.version)
            if tokens.routing is not None:
                sample.draft.note_routing(len(sample.work.prompt_ids), tokens.routing[place])
            if sample.start.listener is not None:
                sample.start.listener.take(token, logprob, raw_logprob)
            if reason is None and sample.text_stops is not None and sample.text_stops.accept(token):
                stopped.add(key)
                reason = FinishReason.STOP
            if reason is not None:
                ended.append((self._running.pop(key), reason))
            elif sample.calls is not None and sample.calls.accept(token):
                stopped.add(key)
                self._call_out(self._running.pop(key))
        if stopped:
            self.engine.retire(sorted(stopped))
        return ended

    def _finish(self, ended: Iterable[Ended]) -> list[FinishedSample]:
        """What has ended; a sample with a listener goes to that one only."""
        now, finished = self._clock(), []
        for sample, reason in ended:
            done = sample.finish(reason, now)
            if sample.start.listener is None:
                finished.append(done)
            else:
                sample.start.listener.finish(done)
        return finished
