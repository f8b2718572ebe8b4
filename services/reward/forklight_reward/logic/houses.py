"""Clues about houses in a row, and a solver that counts to two.

Every value has a mask of the houses it may belong to: bit 0 is house 1. A number of guesses bounds the work.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

Clue = tuple[str, str, str]
"""Kind, a value, and another value or a house number."""

TOLD = {
    "same": "The house with {0} is also the house with {1}.",
    "other": "The house with {0} is not the house with {1}.",
    "left": "The house with {0} is immediately to the left of the house with {1}.",
    "beside": "The house with {0} is next to the house with {1}.",
    "before": "The house with {0} is somewhere to the left of the house with {1}.",
    "at": "The house with {0} is house {1}.",
    "not_at": "The house with {0} is not house {1}.",
}
MOST_GUESSES = 60
Masks = dict[str, int]


def tell(clue: Clue) -> str:
    """A clue as a sentence."""
    return TOLD[clue[0]].format(*clue[1:])


def true_clues(rows: Sequence[Sequence[str]]) -> list[Clue]:
    """Everything that can be said of a solution."""
    place = {value: house for row in rows for house, value in enumerate(row)}
    row_of = {value: number for number, row in enumerate(rows) for value in row}
    clues: list[Clue] = []
    for one, here in place.items():
        clues.append(("at", one, str(here + 1)))
        clues += [("not_at", one, str(house + 1)) for house in range(len(rows[0])) if house != here]
        for two, there in place.items():
            if one == two:
                continue
            if row_of[one] < row_of[two]:
                clues.append(("same" if here == there else "other", one, two))
                clues += [("beside", one, two)] if abs(here - there) == 1 else []
            clues += [("left", one, two)] if there == here + 1 else []
            clues += [("before", one, two)] if here < there else []
    return clues


WEIGHTS: Mapping[str, float] = {
    "same": 6.0, "other": 0.5, "left": 4.0, "beside": 4.0, "before": 1.5, "at": 0.6, "not_at": 0.3,
}  # fmt: skip


def draw_clues(chance: random.Random, rows: Sequence[Sequence[str]]) -> list[Clue]:
    """Clues that leave one solution, none of which can be left out."""
    pool = true_clues(rows)
    # Weighted order without repetition: the larger the weight, the earlier a clue tends to come.
    pool.sort(key=lambda clue: -(chance.random() ** (1.0 / WEIGHTS[clue[0]])))
    few, many = 0, len(pool)
    while few + 1 < many:
        middle = (few + many) // 2
        few, many = (few, middle) if is_unique(rows, pool[:middle]) else (middle, many)
    kept = pool[:many]
    for clue in list(reversed(kept)):
        fewer = [each for each in kept if each != clue]
        if is_unique(rows, fewer):
            kept = fewer
    chance.shuffle(kept)
    return kept


def is_unique(rows: Sequence[Sequence[str]], clues: Sequence[Clue]) -> bool:
    """Whether the clues leave one solution; False when finding out costs too much."""
    names = [sorted(row) for row in rows]
    everywhere = (1 << len(rows[0])) - 1
    budget = [MOST_GUESSES]
    found = count_solutions(
        dict.fromkeys((value for row in names for value in row), everywhere), names, clues, budget
    )
    return found == 1 and budget[0] > 0


def count_solutions(
    masks: Masks, rows: Sequence[Sequence[str]], clues: Sequence[Clue], budget: list[int]
) -> int:
    """0, 1 or 2 (which stands for more); spends the budget."""
    if budget[0] <= 0 or not propagate(masks, rows, clues):
        return 0
    open_values = [value for value, mask in masks.items() if mask & (mask - 1)]
    if not open_values:
        return 1
    value = min(open_values, key=lambda each: masks[each].bit_count())
    total, rest = 0, masks[value]
    while rest and total < 2:
        bit = rest & -rest
        rest ^= bit
        budget[0] -= 1
        total += count_solutions({**masks, value: bit}, rows, clues, budget)
    return min(total, 2)


def propagate(masks: Masks, rows: Sequence[Sequence[str]], clues: Sequence[Clue]) -> bool:
    """Narrow all masks as far as single clues and single rows say; False when a value fits nowhere."""
    everywhere = (1 << len(rows[0])) - 1
    before: list[int] = []
    while before != (now := list(masks.values())):
        before = now
        for kind, one, two in clues:
            narrow(masks, kind, one, two, everywhere)
        for row in rows:
            narrow_row(masks, row, everywhere)
        if not all(masks.values()):
            return False
    return True


def narrow(masks: Masks, kind: str, one: str, two: str, everywhere: int) -> None:
    """What one clue says of its values."""
    if kind == "at":
        masks[one] &= 1 << (int(two) - 1)
        return
    if kind == "not_at":
        masks[one] &= ~(1 << (int(two) - 1))
        return
    here, there = masks[one], masks[two]
    if kind == "same":
        masks[one] = masks[two] = here & there
    elif kind == "other":
        masks[two] = there & ~here if not here & (here - 1) else there
        masks[one] = here & ~there if not there & (there - 1) else here
    elif kind == "left":
        masks[one], masks[two] = here & (there >> 1), there & (here << 1) & everywhere
    elif kind == "beside":
        masks[one] = here & ((there << 1) | (there >> 1))
        masks[two] = there & ((here << 1) | (here >> 1))
    elif kind == "before":
        last = there.bit_length() - 1
        first = here & -here
        masks[one] = here & ((1 << max(0, last)) - 1)
        masks[two] = there & ~(2 * first - 1) if first else 0


def narrow_row(masks: Masks, row: Sequence[str], everywhere: int) -> None:
    """No two values of a row share a house, and every house has one of them."""
    for value in row:
        mask = masks[value]
        if mask and not mask & (mask - 1):
            for other in row:
                if other != value:
                    masks[other] &= ~mask
    for house in range(everywhere.bit_length()):
        able = [value for value in row if masks[value] >> house & 1]
        if not able:
            masks[row[0]] = 0
        elif len(able) == 1:
            masks[able[0]] = 1 << house
