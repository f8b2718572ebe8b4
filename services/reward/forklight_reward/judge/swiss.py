"""Chooses a reference answer out of several by a Swiss tournament: few comparisons, a fair order.

ceil(log2 n) + 1 rounds; players of like score meet, nobody meets twice, ties are broken by Buchholz (the
points of everybody one has met).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from forklight_core.errors import InvalidInputError
from forklight_reward.judge.chat import together

WIN, DRAW = 1.0, 0.5
MOST_PLAYERS = 64
MOST_STEPS = 20_000
"""Of the search for a round's pairs."""

Compare = Callable[[int, int], Awaitable[int | None]]
"""1, 0 or -1 for the first of two; None when the judge would not say, which counts as a draw."""


@dataclass(slots=True, kw_only=True)
class Player:
    """One candidate and what it has played."""

    index: int
    points: float = 0.0
    met: set[int] = field(default_factory=set)
    had_bye: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A place in the final order."""

    index: int
    points: float
    buchholz: float


async def rank_candidates(num_candidates: int, compare: Compare) -> list[Standing]:
    """The standings, best first."""
    if not 1 <= num_candidates <= MOST_PLAYERS:
        raise InvalidInputError(f"a tournament takes 1 to {MOST_PLAYERS} answers, not {num_candidates}")
    players = [Player(index=index) for index in range(num_candidates)]
    num_rounds = math.ceil(math.log2(num_candidates)) + 1 if num_candidates > 1 else 0
    for _ in range(num_rounds):
        pairs = _pair(players)
        if pairs is None:
            break  # everybody has met everybody they may still meet
        await _play(pairs, compare)
    return _standings(players)


async def _play(pairs: Sequence[tuple[Player, Player]], compare: Compare) -> None:
    async def ask(first: Player, second: Player) -> int | None:
        return await compare(first.index, second.index)

    results = await together(*(ask(first, second) for first, second in pairs))
    for (first, second), result in zip(pairs, results, strict=True):
        first.met.add(second.index)
        second.met.add(first.index)
        share = DRAW * (1 + (result or 0))
        first.points += share
        second.points += WIN - share


def _pair(players: Sequence[Player]) -> list[tuple[Player, Player]] | None:
    """The pairs of a round. Of an odd number the last by points that never sat out sits out, and wins."""
    order = sorted(players, key=lambda player: (-player.points, player.index))
    if len(order) % 2 == 0:
        return _Search().pairs(order)
    for resting in sorted(order, key=lambda player: (player.had_bye, player.points, -player.index)):
        pairs = _Search().pairs([player for player in order if player is not resting])
        if pairs is not None:
            resting.had_bye = True
            resting.points += WIN
            return pairs
    return None


class _Search:
    """The best placed meets the nearest by points it has not met, with a way back where that ends nowhere."""

    def __init__(self) -> None:
        self._num_steps = 0

    def pairs(self, order: Sequence[Player]) -> list[tuple[Player, Player]] | None:
        if not order:
            return []
        first, rest = order[0], order[1:]
        for position, second in enumerate(rest):
            self._num_steps += 1
            if self._num_steps > MOST_STEPS:
                return None
            if second.index in first.met:
                continue
            others = self.pairs([*rest[:position], *rest[position + 1 :]])
            if others is not None:
                return [(first, second), *others]
        return None


def _standings(players: Sequence[Player]) -> list[Standing]:
    points = {player.index: player.points for player in players}
    standings = [
        Standing(index=player.index, points=player.points, buchholz=sum(points[each] for each in player.met))
        for player in players
    ]
    return sorted(standings, key=lambda standing: (-standing.points, -standing.buchholz, standing.index))
