"""Text of a response as its tokens come: never half a character, never the beginning of a stop string.

The pieces of a sample, put together, are its text; token ids and log-probs know nothing of what is held back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
"""What a tokenizer writes for bytes that are not a character, or not yet."""
MOST_PENDING = 3
"""Bytes of UTF-8 that are not a character yet are at most so many."""
WINDOW_TOKENS = 32
CONTEXT_TOKENS = 8
"""Decoded again with each new token: some decoders look at what came before."""


class TokenTexts:
    """What each token adds to the text."""

    __slots__ = ("_decode", "_num_told", "_window")

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._num_told = 0

    def add(self, token: int) -> str:
        """The text that is sure with this token; a character comes with the token that completes it."""
        self._window.append(token)
        sure = _sure(self._decode(self._window))
        added = sure[self._num_told :]
        self._num_told = max(self._num_told, len(sure))
        if len(self._window) > WINDOW_TOKENS:
            del self._window[:-CONTEXT_TOKENS]
            self._num_told = len(_sure(self._decode(self._window)))
        return added

    def close(self) -> str:
        """What is left when no token comes any more: bytes that never became a character."""
        return self._decode(self._window)[self._num_told :]


def _sure(text: str) -> str:
    """Without an end that the next token may still change."""
    num_pending = 0
    while num_pending < min(MOST_PENDING, len(text)) and text[-1 - num_pending] == REPLACEMENT:
        num_pending += 1
    return text[: len(text) - num_pending]


class StopCut:
    """Cuts text before the first stop string, and holds back what may be the beginning of one."""

    __slots__ = ("_held", "_strings", "is_cut")

    def __init__(self, strings: Sequence[str]) -> None:
        self.is_cut = False
        self._strings = tuple(strings)
        self._held = ""

    def add(self, text: str) -> str:
        """The text that can be told."""
        if self.is_cut or not text:
            return ""
        text, self._held = self._held + text, ""
        places = [place for string in self._strings if (place := text.find(string)) >= 0]
        if places:
            self.is_cut = True
            return text[: min(places)]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def close(self) -> str:
        """What was held back of a sample that ended otherwise."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, text: str) -> int:
        longest = max(map(len, self._strings), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            end = text[-size:]
            if any(string.startswith(end) for string in self._strings):
                return size
        return 0
