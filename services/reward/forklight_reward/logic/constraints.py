"""A small solver for boards: cells with bit-mask domains, pairs that differ, tables of allowed tuples.

Counts to a limit with bounded work; generators reveal cells until one solution is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import or_

Option = tuple[int, ...]
"""One allowed tuple of a table, each value as the mask `1 << value`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The cells of one rule and the tuples that it allows."""

    cells: tuple[int, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What must hold between cells."""

    tables: Sequence[Table] = ()
    differ: Sequence[Sequence[int]] = ()
    """Groups of cells with different values."""


@dataclass(slots=True, kw_only=True)
class Found:
    """Solutions, and whether the search saw all that the limit asks for."""

    boards: list[list[int]] = field(default_factory=list)
    complete: bool = True


@dataclass(slots=True)
class State:
    """Domains and the options left of each table."""

    domains: list[int]
    options: list[tuple[Option, ...]]

    def copy(self) -> State:
        """For a guess."""
        return State(self.domains.copy(), self.options.copy())


class Search:
    """Depth first, the cell with the fewest values first, consistent tables after every guess."""

    def __init__(self, rules: Rules, num_cells: int, chance: random.Random | None = None) -> None:
        self.tables = rules.tables
        self.chance = chance
        peers: list[set[int]] = [set() for _ in range(num_cells)]
        for group in rules.differ:
            for cell in group:
                peers[cell].update(group)
        self.peers = [tuple(sorted(others - {cell})) for cell, others in enumerate(peers)]
        self.tables_of: list[list[int]] = [[] for _ in range(num_cells)]
        for index, table in enumerate(rules.tables):
            for cell in table.cells:
                self.tables_of[cell].append(index)

    def find(self, domains: Sequence[int], limit: int, most_nodes: int) -> Found:
        """Up to `limit` solutions; incomplete when the work ran out before."""
        found = Found()
        start = State(list(domains), [table.options for table in self.tables])
        stack: list[State] = (
            [start] if self.settle(start, range(len(domains)), range(len(self.tables))) else []
        )
        nodes = 0
        while stack:
            nodes += 1
            if nodes > most_nodes:
                found.complete = False
                return found
            state = stack.pop()
            open_cells = [
                (mask.bit_count(), cell) for cell, mask in enumerate(state.domains) if mask & (mask - 1)
            ]
            if not open_cells:
                found.boards.append([mask.bit_length() - 1 for mask in state.domains])
                if len(found.boards) >= limit:
                    return found
                continue
            self.guess(state, min(open_cells)[1], stack)
        return found

    def guess(self, state: State, cell: int, stack: list[State]) -> None:
        """Push one consistent state for each value of a cell."""
        values = bits(state.domains[cell])
        if self.chance is not None:
            self.chance.shuffle(values)
        for value in values:
            child = state.copy()
            child.domains[cell] = value
            if self.settle(child, (cell,), self.tables_of[cell]):
                stack.append(child)

    def settle(self, state: State, changed: Sequence[int], dirty: Sequence[int]) -> bool:
        """Propagate until nothing changes; False when a cell has no value left."""
        domains = state.domains
        queue = [cell for cell in changed if not domains[cell] & (domains[cell] - 1)]
        waiting = set(dirty)
        while queue or waiting:
            while queue:
                cell = queue.pop()
                value = domains[cell]
                for peer in self.peers[cell]:
                    if domains[peer] & value:
                        domains[peer] &= ~value
                        if not domains[peer]:
                            return False
                        waiting.update(self.tables_of[peer])
                        if not domains[peer] & (domains[peer] - 1):
                            queue.append(peer)
            if waiting and not self.filter(state, waiting.pop(), queue, waiting):
                return False
        return all(domains)

    def filter(self, state: State, index: int, queue: list[int], waiting: set[int]) -> bool:
        """Drop the options of a table that no longer fit, and the values that no option holds."""
        domains, cells = state.domains, self.tables[index].cells
        masks = [domains[cell] for cell in cells]
        alive = [option for option in state.options[index] if fits(option, masks)]
        if not alive:
            return False
        state.options[index] = tuple(alive)
        support = list(alive[0])
        for option in alive[1:]:
            support = list(map(or_, support, option))
        for cell, mask, kept in zip(cells, masks, support, strict=True):
            if kept != mask:
                domains[cell] = kept
                waiting.update(self.tables_of[cell])
                if not kept & (kept - 1):
                    queue.append(cell)
        waiting.discard(index)
        return True


def fits(option: Option, masks: Sequence[int]) -> bool:
    """Whether every value of an option is in its cell's domain."""
    return all(map(int.__and__, option, masks))


def bits(mask: int) -> list[int]:
    """The single-value masks of a domain, lowest first."""
    return [1 << place for place in range(mask.bit_length()) if mask >> place & 1]


def reveal_until_unique(
    search: Search,
    truth: Sequence[int],
    domains: list[int],
    *,
    chance: random.Random,
    reveal: Callable[[int], bool] | None = None,
    most_nodes: int = 400,
) -> bool:
    """Reveal cells that tell solutions apart until `truth` is the only one; changes `domains`.

    `reveal(cell)` may refuse a cell; False when no cell may be revealed and there is still another solution.
    """
    while True:
        found = search.find(domains, limit=2, most_nodes=most_nodes)
        if found.complete and len(found.boards) == 1:
            return True
        other = next((board for board in found.boards if board != list(truth)), None)
        hidden = [cell for cell, mask in enumerate(domains) if mask & (mask - 1)]
        differing = hidden if other is None else [cell for cell in hidden if other[cell] != truth[cell]]
        chance.shuffle(differing)
        cell = next((each for each in differing if reveal is None or reveal(each)), None)
        if cell is None:
            return False
        domains[cell] = 1 << truth[cell]


def number_domains(givens: Sequence[int], largest: int) -> list[int]:
    """Domains 1..largest; a given (not 0) has one value."""
    everything = (1 << (largest + 1)) - 2
    return [1 << given if given else everything for given in givens]


def only_board(search: Search, domains: Sequence[int], most_nodes: int = 100_000) -> list[int]:
    """The first solution of a puzzle that has one."""
    boards = search.find(domains, limit=1, most_nodes=most_nodes).boards
    return boards[0] if boards else []
