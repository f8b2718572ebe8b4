"""What a generator keeps of a group that waits and of a sample that has begun."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from forklight_rollout.generation.draft import Draft
from forklight_rollout.generation.groups import FinishedSample, GroupWork, OpenSample, SampleStart
from forklight_rollout.generation.text_stops import TextStops
from forklight_rollout.ports import FinishReason, SequenceStart
from forklight_rollout.tools.format import answered_calls
from forklight_rollout.tools.ports import ToolCall, ToolRules
from forklight_rollout.tools.watch import CallWatch

Decode = Callable[[list[int]], str]


class WaitingGroup:
    """A group some of whose samples have not started."""

    __slots__ = ("key", "samples", "work")

    def __init__(self, key: int, work: GroupWork, samples: Iterable[SampleStart]) -> None:
        self.key = key
        self.work = work
        self.samples = deque(samples)


class BegunSample:
    """One sample and the tokens it has so far: in the engine, in a call, or on its way back from one."""

    __slots__ = ("_decode", "calls", "draft", "start", "started_at", "text_stops", "work")

    def __init__(self, work: GroupWork, start: SampleStart, now: float, decode: Decode | None) -> None:
        self.work = work
        self.start = start
        self.started_at = now
        self.draft = Draft() if start.draft is None else start.draft
        self._decode = decode
        self._begin_turn()

    def _begin_turn(self) -> None:
        """Watch what the policy draws from here on; what a tool put in neither ends nor calls anything."""
        self.text_stops: TextStops | None = None
        self.calls: CallWatch | None = None
        if self._decode is None:
            return
        if self.work.stop_strings:
            turn = self.draft.ids[self.draft.turn_start :]
            self.text_stops = TextStops(self.work.stop_strings, self._decode, before=turn)
        if self.work.tools is not None:
            self.calls = CallWatch(self.draft, self._decode)

    @property
    def num_unsaved(self) -> int:
        """Tokens that could be saved now."""
        return 0 if self.draft.is_held_back else len(self.draft) - self.draft.num_saved

    @property
    def num_left(self) -> int:
        """Tokens that still fit."""
        return self.work.end.max_new_tokens - len(self.draft)

    def sequence(self, key: int) -> SequenceStart:
        """Itself for the engine, to go on behind its draft."""
        return SequenceStart(
            key=key,
            seed=self.start.seed,
            prefix_ids=tuple(self.draft.ids),
            num_certain=self.draft.count_certain(self.work.end),
            is_turn=self.work.is_conversation or self.work.tools is not None,
        )

    def call(self, key: int) -> ToolCall | None:
        """The call that its text ends with."""
        if self.calls is None or self.calls.call is None or self.work.tools is None:
            return None
        return ToolCall(
            key=key,
            sample_id=self.start.sample_id,
            group_id=self.work.group_id,
            number=self.draft.num_replies + 1,
            text=self.calls.call,
            rules=self.work.tools,
            earlier=self._earlier_calls(self.work.tools),
        )

    def _earlier_calls(self, rules: ToolRules) -> tuple[str, ...]:
        """Only a session's state is made of them: others are spared the decoding."""
        if rules.workspace is None or self._decode is None:
            return ()
        return tuple(answered_calls(self.draft.ids.tolist(), bytes(self.draft.drawn), self._decode))

    def answer(self, reply_ids: Sequence[int]) -> None:
        """Put a reply in, as far as it fits. It is in the span of the call: no policy drew it."""
        self.draft.put_in(reply_ids[: self.num_left], self.draft.version)
        self._begin_turn()

    def read(self) -> OpenSample:
        """What is not saved yet."""
        return OpenSample(
            sample_id=self.start.sample_id,
            group_id=self.work.group_id,
            prompt_ids=self.work.prompt_ids,
            response=self.draft.stretch(self.draft.num_saved, num_prompt=len(self.work.prompt_ids)),
        )

    def finish(self, reason: FinishReason, now: float) -> FinishedSample:
        self.draft.drop_unread(len(self.work.prompt_ids))
        return FinishedSample(
            sample_id=self.start.sample_id,
            group_id=self.work.group_id,
            prompt_ids=self.work.prompt_ids,
            response=self.draft.stretch(),
            reason=reason,
            started_at=self.started_at,
            finished_at=now,
            tools=self.work.tools,
        )
