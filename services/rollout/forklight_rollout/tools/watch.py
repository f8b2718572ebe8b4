"""Sees when a sample has just written a whole call. Reads only what the policy drew since the last reply."""

from __future__ import annotations

from collections.abc import Callable

from forklight_rollout.generation.draft import Draft
from forklight_rollout.generation.text_stops import TextStops
from forklight_rollout.tools.format import CALL_CLOSE, CALL_OPEN, find_call

Decode = Callable[[list[int]], str]


class CallWatch:
    """Watches one turn: from the last reply, or the response's beginning, to the next call."""

    __slots__ = ("_decode", "_draft", "_start", "_stops", "call")

    def __init__(self, draft: Draft, decode: Decode) -> None:
        self._draft, self._decode = draft, decode
        self._start = draft.turn_start
        text = decode(draft.ids[self._start :].tolist())
        self.call = find_call(text)
        """The text of the call that the turn ends with."""
        self._stops = self._watch_for(CALL_CLOSE if CALL_OPEN in text else CALL_OPEN)

    def accept(self, token: int) -> bool:
        """Whether this token, the draft's newest, ends a call."""
        if not self._stops.accept(token):
            return False
        self.call = find_call(self._decode(self._draft.ids[self._start :].tolist()))
        self._stops = self._watch_for(CALL_CLOSE)
        return self.call is not None

    def _watch_for(self, marker: str) -> TextStops:
        return TextStops((marker,), self._decode, before=self._draft.ids[self._start :])
