"""Which samples share a pack, so that every lane of an engine is busy for about as long as the others.

An engine computes packs in rounds, one a lane; a round takes as long as its costliest pack, a step as long as
its rounds together. Packs are listed round after round. Everything here is a pure function of lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from forklight_model.config import ModelConfig
from forklight_model.planning.counts import attention_flops, forward_flops
from forklight_model.policy import PolicyConfig

Cost = Callable[[int], float]
"""How long a sequence of so many tokens takes, in any unit. It rises with the length."""


@dataclass(slots=True, kw_only=True)
class Bin:
    """A pack in the making."""

    members: list[int] = field(default_factory=list)
    tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What has to be placed, and what holds it."""

    lengths: Sequence[int]
    costs: Sequence[float]
    capacity: int
    num_lanes: int

    @property
    def longest_first(self) -> list[int]:
        return sorted(range(len(self.lengths)), key=lambda index: (-self.lengths[index], index))

    def with_room(self, bins: Sequence[Bin], index: int) -> list[Bin]:
        return [each for each in bins if each.tokens + self.lengths[index] <= self.capacity]

    def put(self, index: int, target: Bin) -> None:
        target.members.append(index)
        target.tokens += self.lengths[index]
        target.cost += self.costs[index]

    def step_cost(self, bins: Sequence[Bin]) -> float:
        """Rounds take as long as their costliest pack; the best rounds of given packs put like with like."""
        return sum(sorted((each.cost for each in bins), reverse=True)[:: self.num_lanes])


def length_cost(config: PolicyConfig) -> Cost:
    """Arithmetic of a sequence under a model, in tokens: softmax attention adds to each token what it adds to
    the rest of the model at half the sequence's length as context, the mean of causal attention. Of another
    model than ours that share is not known: its sequences cost their tokens."""
    if not isinstance(config, ModelConfig):
        return float
    token, attention = forward_flops(config, 0.0), attention_flops(config, 0.5)
    return lambda tokens: tokens * (1.0 + tokens * attention / token)


def assign_packs(
    lengths: Sequence[int], *, capacity: int, num_lanes: int = 1, cost: Cost = float
) -> list[list[int]]:
    """Indices of the sequences of each pack, the packs round after round; always the same ones.

    One lane: first-fit-decreasing. More: the fewest rounds that are found to hold everything, never more than
    the packs of first-fit-decreasing make. Only the last round may have fewer packs than lanes, and only when
    there are fewer sequences than places. No length may be above `capacity`.
    """
    work = Work(lengths=lengths, costs=[cost(n) for n in lengths], capacity=capacity, num_lanes=num_lanes)
    fitted = _fit_first(work)
    if num_lanes == 1:
        return [sorted(each.members) for each in fitted]
    most_rounds = -(-len(fitted) // num_lanes)
    for num_rounds in range(-(-sum(lengths) // (capacity * num_lanes)), most_rounds):
        found = _try_rounds(work, num_rounds)
        if found:
            return _finish(work, found, num_rounds)
    return _finish(work, [*_try_rounds(work, most_rounds), fitted], most_rounds)


def _try_rounds(work: Work, num_rounds: int) -> list[list[Bin]]:
    """What is found for so many rounds; nothing when it does not fit."""
    tries = (_level(work, num_rounds), _fill_rounds(work, num_rounds))
    return [bins for bins in tries if bins is not None]


def _fit_first(work: Work) -> list[Bin]:
    """Longest first, each into the first bin with room."""
    bins: list[Bin] = []
    for index in work.longest_first:
        room = next((each for each in bins if each.tokens + work.lengths[index] <= work.capacity), None)
        if room is None:
            bins.append(room := Bin())
        work.put(index, room)
    return bins


def _level(work: Work, num_rounds: int) -> list[Bin] | None:
    """Longest first, each into the cheapest bin of all rounds; None when one finds no room."""
    return _place_cheapest(work, work.longest_first, num_rounds * work.num_lanes)


def _fill_rounds(work: Work, num_rounds: int) -> list[Bin] | None:
    """Round by round up to a level: the costliest sequence left, or an equal share of what is left.

    Where few sequences are far longer than the rest, they meet in one round and the rest fills it up.
    """
    left, bins = work.longest_first, []
    for rounds_left in range(num_rounds, 1, -1):
        share = sum(work.costs[index] for index in left) / (work.num_lanes * rounds_left)
        level = max(share, *(work.costs[index] for index in left[:1]), 0.0) * (1.0 + 1e-9)
        filled: list[Bin] = [Bin() for _ in range(work.num_lanes)]
        left = [index for index in left if not _place_below(work, index, filled, level)]
        bins += filled
    last = _place_cheapest(work, left, work.num_lanes)
    return None if last is None else bins + last


def _place_below(work: Work, index: int, bins: Sequence[Bin], level: float) -> bool:
    """Into the fullest bin that stays under the level; whether there is one."""
    room = [each for each in work.with_room(bins, index) if each.cost + work.costs[index] <= level]
    if room:
        work.put(index, max(room, key=lambda each: each.cost))
    return bool(room)


def _place_cheapest(work: Work, indices: Sequence[int], num_bins: int) -> list[Bin] | None:
    bins = [Bin() for _ in range(num_bins)]
    for index in indices:
        room = work.with_room(bins, index)
        if not room:
            return None
        work.put(index, min(room, key=lambda each: each.cost))
    return bins


def _finish(work: Work, candidates: Sequence[list[Bin]], num_rounds: int) -> list[list[int]]:
    """The cheapest candidate, costliest packs first; empty places take a sequence of a pack that has two."""
    bins = [each for each in min(candidates, key=work.step_cost) if each.members]
    while len(bins) < num_rounds * work.num_lanes:
        shared = [each for each in bins if len(each.members) > 1]
        if not shared:
            break
        donor = max(shared, key=lambda each: each.cost)
        moved = min(donor.members, key=lambda index: (work.lengths[index], -index))
        rest = [index for index in donor.members if index != moved]
        bins = [each for each in bins if each is not donor] + [_bin_of(work, rest), _bin_of(work, [moved])]
    bins.sort(key=lambda each: (-each.cost, min(each.members)))
    return [sorted(each.members) for each in bins]


def _bin_of(work: Work, members: Sequence[int]) -> Bin:
    made = Bin()
    for index in members:
        work.put(index, made)
    return made
