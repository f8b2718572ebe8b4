"""The response of a running sample so far: tokens, log-probs, versions, and what of it the policy drew.

Legend: P prompt tokens, R response tokens, F = P + R - 1 tokens fed, L layers, K experts a token.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from forklight_core.wire import RoutingArrays
from forklight_rollout.generation.routing_log import RoutingLog
from forklight_rollout.ports import EndRules

DRAWN, PUT_IN = 1, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From token `start` of the response on, tokens come from policy `version`."""

    start: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """Response tokens from `start` on, in arrays of their own."""

    start: int
    ids: array[int]
    logprobs: array[float]  # at the sampling distribution; 0 where a token was put in
    raw_logprobs: array[float]  # at temperature 1 and without filters; 0 where a token was put in
    drawn: bytes  # 1 where the policy drew the token, 0 where it was put in (a tool's output)
    spans: tuple[Span, ...]  # of these tokens; starts count from the response's first token
    routing: RoutingArrays | None = (
        None  # of the tokens fed to get them; the prompt's as well when start is 0
    )


@dataclass(slots=True, eq=False)
class Draft:
    """Grows by one token a step: `add` is on the hot path."""

    ids: array[int] = field(default_factory=lambda: array("i"))
    logprobs: array[float] = field(default_factory=lambda: array("f"))
    raw_logprobs: array[float] = field(default_factory=lambda: array("f"))
    drawn: bytearray = field(default_factory=bytearray)
    spans: list[Span] = field(default_factory=list)
    routing: RoutingLog | None = None
    num_saved: int = 0
    """Tokens that are safe elsewhere: another pod would go on behind them."""
    is_held_back: bool = False
    """Other tokens are still saved for this sample: nothing more is saved before they are forgotten."""
    _version: int = -1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def version(self) -> int:
        """Of its newest token."""
        return self._version

    @property
    def turn_start(self) -> int:
        """Index behind the last token that was put in: what follows was drawn in one go."""
        return self.drawn.rfind(PUT_IN) + 1

    @property
    def num_replies(self) -> int:
        """How often tokens were put in. A response begins with a drawn one."""
        return self.drawn.count(bytes([DRAWN, PUT_IN]))

    def add(self, token: int, logprob: float, raw_logprob: float, version: int) -> None:
        """A token the policy drew."""
        if version != self._version:
            self._begin_span(version)
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.raw_logprobs.append(raw_logprob)
        self.drawn.append(DRAWN)

    def put_in(self, ids: Sequence[int], version: int) -> None:
        """Tokens nobody drew; learning passes over them."""
        if ids and version != self._version:
            self._begin_span(version)
        self.ids.extend(ids)
        for column in (self.logprobs, self.raw_logprobs):
            column.extend([0.0] * len(ids))
        self.drawn.extend(bytes([PUT_IN]) * len(ids))

    def note_routing(self, num_prompt: int, fed: RoutingArrays) -> None:
        """Choices for tokens fed to get the newest one: all so far, or those not noted yet."""
        if self.routing is None:
            self.routing = RoutingLog(fed)
            return
        num_new = num_prompt + len(self.ids) - 1 - self.routing.num_tokens
        self.routing.add(
            RoutingArrays(experts=fed.experts[-num_new:], weights=fed.weights[-num_new:])
            if num_new < len(fed.experts)
            else fed
        )

    def drop_unread(self, num_prompt: int) -> None:
        """Forget tokens at the end that were put in and never fed, where each token needs its choices."""
        if self.routing is None:
            return
        num_read = self.routing.num_tokens - num_prompt + 1
        for column in (self.ids, self.logprobs, self.raw_logprobs, self.drawn):
            del column[num_read:]

    def stretch(self, start: int = 0, *, num_prompt: int = 0) -> Stretch:
        """A copy of what follows token `start`."""
        inside = [span for span in self.spans if span.start > start]
        before = [span for span in self.spans if span.start <= start]
        if before and start < len(self.ids):
            inside.insert(0, Span(start=start, version=before[-1].version))
        routing = None
        if self.routing is not None:
            routing = self.routing.close(0 if start == 0 else num_prompt + start - 1)
        return Stretch(
            start=start,
            ids=self.ids[start:],
            logprobs=self.logprobs[start:],
            raw_logprobs=self.raw_logprobs[start:],
            drawn=bytes(self.drawn[start:]),
            spans=tuple(inside),
            routing=routing,
        )

    def count_certain(self, rules: EndRules) -> int:
        """The near-certain tokens in a row that it ends with."""
        if not rules.repetition_tokens:
            return 0
        certain, count = math.log(rules.repetition_probability), 0
        for raw_logprob, drawn in zip(reversed(self.raw_logprobs), reversed(self.drawn), strict=True):
            if drawn == PUT_IN or raw_logprob <= certain:
                break
            count += 1
        return count

    def _begin_span(self, version: int) -> None:
        self.spans.append(Span(start=len(self.ids), version=version))
        self._version = version


def restore_draft(stretch: Stretch) -> Draft:
    """A whole response that was saved, to go on with."""
    if stretch.start != 0:
        raise AssertionError(f"a draft begins at token 0, not at {stretch.start}")
    return Draft(
        ids=array("i", stretch.ids),
        logprobs=array("f", stretch.logprobs),
        raw_logprobs=array("f", stretch.raw_logprobs),
        drawn=bytearray(stretch.drawn),
        spans=list(stretch.spans),
        routing=None if stretch.routing is None else RoutingLog(stretch.routing),
        num_saved=len(stretch.ids),
        _version=stretch.spans[-1].version if stretch.spans else -1,
    )
