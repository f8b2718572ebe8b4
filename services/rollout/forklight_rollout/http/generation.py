"""A request in flight: its choices, filled by the engine's thread, read in the event loop.

    engine thread --take, finish--> Choice (a plain deque)
         '--Bell: one wake a turn of the loop--> Generation.read --> pieces

A choice's deque is bounded: it never holds more than the most new tokens of its sample. So a slow reader
neither stops the engine nor grows memory beyond what it asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from forklight_core.ids import sample_id
from forklight_rollout.generation.draft import Span
from forklight_rollout.generation.groups import FinishedSample, GroupWork, SampleStart
from forklight_rollout.http.plan import Endpoint, Plan
from forklight_rollout.http.text_stream import StopCut, TokenTexts
from forklight_rollout.ports import FinishReason


class EndReason(StrEnum):
    """Why a choice ended; the first two are OpenAI's."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"
    ABORT = "abort"  # the pod is going away


_REASONS = {
    FinishReason.STOP: EndReason.STOP,
    FinishReason.LENGTH: EndReason.LENGTH,
    FinishReason.REPETITION: EndReason.REPETITION,
    FinishReason.CANCELLED: EndReason.ABORT,
}


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token of a response, and what it adds to the text before stop strings are cut."""

    id: int
    logprob: float  # at the sampling distribution
    raw_logprob: float
    text: str
    offset: int  # of its text, in characters of the response


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a choice."""

    reason: EndReason
    spans: tuple[Span, ...]


@dataclass(slots=True, kw_only=True)
class Piece:
    """What is new of a choice; all of it in an answer that is not streamed."""

    index: int
    text: str = ""
    tokens: list[TokenText] = field(default_factory=list)
    """Empty when the request does not ask for tokens."""
    ending: Ending | None = None


def join_pieces(index: int, pieces: Sequence[Piece]) -> Piece:
    """All of a choice."""
    return Piece(
        index=index,
        text="".join(piece.text for piece in pieces),
        tokens=[token for piece in pieces for token in piece.tokens],
        ending=pieces[-1].ending if pieces else None,
    )


class Bell:
    """Wakes readers from the engine's thread: once a turn of the loop, however many tokens come."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung: deque[Generation] = deque()
        self._is_scheduled = False

    def ring(self, generation: Generation) -> None:
        """On the engine's thread. What was put down before it is seen by who wakes."""
        if not generation.is_rung:
            generation.is_rung = True
            self._rung.append(generation)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_scheduled = False
        while self._rung:
            generation = self._rung.popleft()
            generation.is_rung = False
            generation.changed.set()


class Choice:
    """One sample. `take` and `finish` run on the engine's thread, the rest in the event loop."""

    def __init__(self, index: int, generation: Generation, decode: Callable[[list[int]], str]) -> None:
        plan = generation.plan
        self.index = index
        self.num_tokens = 0
        self.reason: EndReason | None = None
        self.is_surplus = False
        """Its text became complete when it was last read, and the engine had not ended it."""
        self._generation = generation
        self._stop_ids = plan.prompt_of(index).end.stop_ids
        self._keeps_tokens = plan.gives_logprobs or plan.gives_token_ids
        self._arrived: deque[tuple[int, float, float]] = deque()
        self._finished: FinishedSample | None = None
        self._is_aborted = False
        self._texts = TokenTexts(decode)
        self._cut = StopCut(plan.stop_strings)
        self._num_characters = 0

    @property
    def is_over(self) -> bool:
        """It has ended, and its end was read."""
        return self.reason is not None

    def take(self, token: int, logprob: float, raw_logprob: float) -> None:
        """The next token."""
        self._arrived.append((token, logprob, raw_logprob))
        self._generation.ring()

    def finish(self, sample: FinishedSample) -> None:
        """The engine is done with it."""
        self._finished = sample
        self._generation.ring()

    def abort(self) -> None:
        """Nothing comes any more; it ends with what it has."""
        self._is_aborted = True

    def read(self) -> Piece | None:
        """What is new since the last time; None when nothing is."""
        if self.is_over:
            return None
        finished = self._finished  # first: what it has must be in `_arrived` by now
        piece = Piece(index=self.index)
        is_changed = self._read_arrived(piece)
        if finished is not None or self._is_aborted:
            piece.ending = self._end(finished, piece)
            return piece
        return piece if is_changed else None

    def _read_arrived(self, piece: Piece) -> bool:
        num_before = self.num_tokens
        while self._arrived and not self._cut.is_cut:
            token, logprob, raw_logprob = self._arrived.popleft()
            self.num_tokens += 1
            text = "" if token in self._stop_ids else self._texts.add(token)
            piece.text += self._cut.add(text)
            if self._keeps_tokens:
                piece.tokens.append(TokenText(token, logprob, raw_logprob, text, self._num_characters))
            self._num_characters += len(text)
        self._arrived.clear()
        is_changed = self.num_tokens > num_before
        self.is_surplus = is_changed and self._cut.is_cut and self._finished is None
        return is_changed

    def _end(self, finished: FinishedSample | None, piece: Piece) -> Ending:
        self.is_surplus = False
        piece.text += self._cut.add(self._texts.close())
        if self._cut.is_cut:
            self.reason = EndReason.STOP
        else:
            piece.text += self._cut.close()
            self.reason = EndReason.ABORT if finished is None else _REASONS[finished.reason]
        spans = () if finished is None else finished.response.spans
        return Ending(reason=self.reason, spans=tuple(span for span in spans if span.start < self.num_tokens))


class Generation:
    """All choices of a request."""

    def __init__(self, plan: Plan, bell: Bell, decode: Callable[[list[int]], str]) -> None:
        self.plan = plan
        self.changed = asyncio.Event()
        self.is_rung = False
        """Of the bell."""
        self._bell = bell
        self.choices = [Choice(index, self, decode) for index in range(plan.num_choices)]

    @property
    def is_over(self) -> bool:
        """Every choice has ended, and its end was read."""
        return all(choice.is_over for choice in self.choices)

    @property
    def end_reasons(self) -> list[str]:
        """Of the choices that have ended."""
        return [choice.reason.value for choice in self.choices if choice.reason is not None]

    @property
    def num_response_tokens(self) -> int:
        return sum(choice.num_tokens for choice in self.choices)

    @property
    def num_prompt_tokens(self) -> int:
        """Every prompt once, however many samples it has."""
        return sum(len(prompt.ids) for prompt in self.plan.prompts)

    @property
    def sample_ids(self) -> set[str]:
        return {self.sample_id(choice.index) for choice in self.choices}

    def sample_id(self, index: int) -> str:
        """The name of a choice in the engine."""
        number = self.plan.num_samples
        return sample_id(f"{self.plan.request_id}/p{index // number:03d}", index % number)

    def ring(self) -> None:
        """Something is new. On the engine's thread."""
        self._bell.ring(self)

    def abort(self) -> None:
        """End every choice with what it has. In the event loop, when the engine says no more."""
        for choice in self.choices:
            choice.abort()
        self.changed.set()

    async def read(self) -> list[Piece]:
        """Wait for something new, and return it by choice."""
        await self.changed.wait()
        self.changed.clear()
        pieces = [choice.read() for choice in self.choices]
        return [piece for piece in pieces if piece is not None]

    def make_work(self) -> list[GroupWork]:
        """What the engine is asked for: a group of each prompt."""
        plan, number = self.plan, self.plan.num_samples
        return [
            GroupWork(
                group_id=f"{plan.request_id}/p{index:03d}",
                prompt_ids=prompt.ids,
                draw=plan.draw,
                end=prompt.end,
                samples=self._make_starts(self.choices[index * number : (index + 1) * number]),
                stop_strings=plan.stop_strings,
                is_conversation=plan.endpoint is Endpoint.CHAT and number == 1,
            )
            for index, prompt in enumerate(plan.prompts)
        ]

    def _make_starts(self, choices: Sequence[Choice]) -> tuple[SampleStart, ...]:
        return tuple(
            SampleStart(
                sample_id=self.sample_id(choice.index),
                seed=self.plan.seed_of(choice.index),
                listener=choice,
            )
            for choice in choices
        )
