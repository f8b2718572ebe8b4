"""From what a tool says to the tokens that are put in. Nothing it says can be markup to the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from forklight_core.errors import ConfigError
from forklight_rollout.tools.format import (
    CALL_CLOSE,
    CALL_OPEN,
    HARMLESS,
    REPLY_CLOSE,
    REPLY_OPEN,
)

CUT_NOTE = "\n[cut]"


class ToolTokenizer(Protocol):
    """What is asked of a tokenizer."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a generation."""
        ...

    def encode(self, text: str) -> list[int]:
        """Markup as markup."""
        ...

    def encode_inert(self, text: str) -> list[int]:
        """No id of markup, whatever the text; characters without a token replaced."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyEncoder:
    """Frame and content are encoded each on its own; what the model has drawn is never encoded again."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    note: tuple[int, ...]
    encode_inert: Callable[[str], Sequence[int]]

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """A reply of at most so many tokens; a longer content is cut, and says so."""
        for marker, harmless in HARMLESS.items():
            text = text.replace(marker, harmless)
        room = max(0, max_tokens - len(self.head) - len(self.tail))
        content = list(self.encode_inert(text[: _most_characters(room)]))
        if len(content) > room or len(text) > _most_characters(room):
            content = [*content[: max(0, room - len(self.note))], *self.note][:room]
        return [*self.head, *content, *self.tail]


def make_encoder(tokenizer: ToolTokenizer, vocabulary_size: int) -> ReplyEncoder:
    """An encoder; ConfigError when calls and replies cannot be written with this tokenizer."""
    for marker in (CALL_OPEN, CALL_CLOSE):
        if marker not in tokenizer.decode(tokenizer.encode(f"x{marker}")):
            raise ConfigError(
                f"tools.names: this model's tokenizer drops {marker!r} when it decodes, so no call could be "
                "seen; make it an ordinary token, or set tools.names = []"
            )

    def encode_inert(text: str) -> list[int]:
        return [token for token in tokenizer.encode_inert(text) if token < vocabulary_size]

    head, tail = tuple(tokenizer.encode(REPLY_OPEN)), tuple(tokenizer.encode(REPLY_CLOSE))
    if tokenizer.stop_ids & {*head, *tail} or max(*head, *tail) >= vocabulary_size:
        raise ConfigError(
            f"tools.names: {REPLY_OPEN.strip()!r} or {REPLY_CLOSE.strip()!r} is a token that ends a "
            "generation, or one that these weights do not have"
        )
    return ReplyEncoder(head=head, tail=tail, note=tuple(encode_inert(CUT_NOTE)), encode_inert=encode_inert)


def _most_characters(num_tokens: int) -> int:
    """More than fit into so many tokens: the rest need not be encoded to know that it is cut."""
    return 64 * (num_tokens + 1)
