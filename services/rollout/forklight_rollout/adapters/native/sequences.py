"""What the engine knows of its sequences on the host: running ones (rows), those on their way in (feeds)."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from forklight_core.wire import RoutingArrays
from forklight_rollout.ports import DrawRules, EndRules, PromptStart, SequenceStart

NO_SLOT = -1


@dataclass(slots=True, eq=False)
class Row:
    """One sequence. It runs while it has a row of the decode batch."""

    key: int
    seed: int
    prompt_ids: tuple[int, ...]
    draw: DrawRules
    end: EndRules
    ids: array[int]  # of its response so far, a prefix included
    num_certain: int  # in a row, when it starts
    is_turn: bool
    length: int = 0  # tokens fed, by steps under way as well
    pages: list[int] = field(default_factory=list)
    is_open: bool = True  # its next tokens are wanted

    @property
    def all_ids(self) -> array[int]:
        return array("i", self.prompt_ids) + self.ids

    @property
    def position(self) -> int:
        """Number of its next draw, counted from the prompt's start: same seed, same tokens, wherever cut."""
        return len(self.prompt_ids) + len(self.ids)


def make_row(prompt: PromptStart, start: SequenceStart) -> Row:
    """A sequence as it was asked for."""
    return Row(
        key=start.key,
        seed=start.seed,
        prompt_ids=prompt.prompt_ids,
        draw=prompt.draw,
        end=prompt.end,
        ids=array("i", start.prefix_ids),
        num_certain=start.num_certain,
        is_turn=start.is_turn,
    )


@dataclass(slots=True, eq=False)
class Feed:
    """Tokens on their way into a slot, and the sequences that start once all are in.

    Afterwards it stays for as long as its slot and pages are not needed: what begins with its tokens goes on
    from there.
    """

    ids: array[int]
    group: int | None = None  # whose prompt it is; None for one sequence's own tokens
    waiting: list[Row] = field(default_factory=list)
    slot: int = NO_SLOT
    pages: list[int] = field(default_factory=list)
    num_done: int = 0
    has_logits: bool = False  # of its last token: sequences can start from it
    choices: list[RoutingArrays] = field(default_factory=list)
    _digest: bytes = b""

    @property
    def digest(self) -> bytes:
        """Of all its tokens."""
        if not self._digest:
            self._digest = hashlib.blake2b(self.ids.tobytes(), digest_size=16).digest()
        return self._digest

    @property
    def is_ready(self) -> bool:
        return self.has_logits and bool(self.waiting)

    @property
    def is_spare(self) -> bool:
        """Whole, and kept for later only."""
        return self.slot != NO_SLOT and not self.waiting and self.num_done == len(self.ids)


def find_longest(ids: array[int], spares: Sequence[Feed]) -> Feed | None:
    """The spare feed with most of the beginning of these tokens; one with all of them needs its logits."""
    by_length: dict[int, list[Feed]] = {}
    for spare in spares:
        if len(spare.ids) < len(ids) or (len(spare.ids) == len(ids) and spare.has_logits):
            by_length.setdefault(len(spare.ids), []).append(spare)
    digest, seen, found = hashlib.blake2b(digest_size=16), 0, None
    for length in sorted(by_length):
        digest.update(ids[seen:length].tobytes())
        seen = length
        for spare in by_length[length]:
            if spare.digest == digest.digest():
                found = spare
    return found
