"""Text that ends a sample. Tokens cut text anywhere, so each new token is looked at with some before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REACH_TOKENS = 8
"""Tokens decoded beyond those a stop string could span: a character may be spread over several."""


class TextStops:
    """Watches one sample."""

    __slots__ = ("_decode", "_longest", "_recent", "_strings")

    def __init__(
        self, strings: Sequence[str], decode: Callable[[list[int]], str], *, before: Sequence[int] = ()
    ) -> None:
        self._strings = tuple(strings)
        self._decode = decode
        self._longest = max(map(len, strings)) + REACH_TOKENS
        self._recent = list(before[-self._longest :])

    def accept(self, token: int) -> bool:
        """Whether the text up to this token ends what was asked for: it holds a stop string only now."""
        before = self._decode(self._recent)
        self._recent.append(token)
        text = self._decode(self._recent)
        # Every token adds a character or completes one, so a stop string lies within this many of them.
        del self._recent[: -self._longest]
        return any(text.count(string) > before.count(string) for string in self._strings)
