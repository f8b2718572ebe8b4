"""All prompts in cells of one (domain, task, level, synthetic), each with a tree of weights."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple

from forklight_buffer.curriculum.levels import Ladder
from forklight_buffer.curriculum.schedule import Stock
from forklight_buffer.curriculum.tree import WeightTree
from forklight_buffer.prompts import Prompt, Traits

EMPTY = Stock(0, 0)


class CellKey(NamedTuple):
    """What the prompts of a cell have in common."""

    domain: str
    task: str
    level: int | None
    synthetic: bool


class Cell:
    """Prompts that are alike to the curriculum, and where in a part it is while it is drawn from."""

    __slots__ = ("key", "part", "places", "slot", "tree")

    def __init__(self, key: CellKey, places: array[int], weight: int) -> None:
        self.key = key
        self.places = places
        self.tree = WeightTree(len(places), weight)
        self.part: Part | None = None
        self.slot = 0


class Part:
    """Cells of one (domain, synthetic) that are drawn from, weighed by what is in them."""

    __slots__ = ("cells", "num_prompts", "tree")

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells
        self.num_prompts = sum(len(cell.places) for cell in cells)
        self.tree = WeightTree(len(cells), 0)
        for slot, cell in enumerate(cells):
            cell.part, cell.slot = self, slot
            self.tree.change(slot, cell.tree.total)

    def draw(self, chance: int) -> int:
        """A prompt in proportion to the weights; `chance` is much larger than their sum."""
        slot, left = self.tree.find(chance % self.tree.total)
        cell = self.cells[slot]
        return cell.places[cell.tree.find(left)[0]]

    def draw_evenly(self, chance: int) -> int:
        """Any prompt, whatever its weight."""
        left = chance % self.num_prompts
        for cell in self.cells:
            if left < len(cell.places):
                return cell.places[left]
            left -= len(cell.places)
        raise AssertionError("the place lies beyond all cells")


class Pool:
    """Where each prompt is, and which cells are drawn from."""

    def __init__(self, prompts: Sequence[Prompt], sources: Sequence[str], weight: int) -> None:
        members: dict[CellKey, array[int]] = {}
        key_of = cache(lambda traits: cell_key(traits, sources))
        self._slots = array("i", bytes(4 * len(prompts)))
        self._cells_of = array("i", bytes(4 * len(prompts)))
        for place, prompt in enumerate(prompts):
            places = members.setdefault(key_of(prompt.traits), array("i"))
            self._slots[place] = len(places)
            places.append(place)
        self.cells = [Cell(key, places, weight) for key, places in members.items()]
        for number, cell in enumerate(self.cells):
            for place in cell.places:
                self._cells_of[place] = number
        self.parts: dict[tuple[str, bool], Part] = {}

    @property
    def domains(self) -> dict[str, int]:
        """Every domain, and how many prompts it has."""
        found: dict[str, int] = {}
        for cell in self.cells:
            found[cell.key.domain] = found.get(cell.key.domain, 0) + len(cell.places)
        return dict(sorted(found.items()))

    def levels(self) -> dict[str, set[int]]:
        """Levels by task."""
        found: dict[str, set[int]] = {}
        for cell in self.cells:
            if cell.key.level is not None:
                found.setdefault(cell.key.task, set()).add(cell.key.level)
        return dict(sorted(found.items()))

    def key_of(self, place: int) -> CellKey:
        """The cell of a prompt."""
        return self.cells[self._cells_of[place]].key

    def change(self, place: int, weight: int) -> None:
        """Give a prompt another weight."""
        cell = self.cells[self._cells_of[place]]
        cell.tree.change(self._slots[place], weight)
        if cell.part is not None:
            cell.part.tree.change(cell.slot, cell.tree.total)

    def draw_from(self, ladders: Mapping[str, Ladder]) -> None:
        """From now on only of the levels where the tasks stand."""
        drawn: dict[tuple[str, bool], list[Cell]] = {}
        for cell in self.cells:
            cell.part, level = None, cell.key.level
            if level is None or level in ladders[cell.key.task].drawn:
                drawn.setdefault((cell.key.domain, cell.key.synthetic), []).append(cell)
        self.parts = {key: Part(cells) for key, cells in drawn.items()}

    def stocks(self) -> dict[str, Stock]:
        """What can be drawn now, by domain."""
        return _by_domain((key, part.tree.total) for key, part in self.parts.items())

    def sizes(self) -> dict[str, Stock]:
        """The same in numbers of prompts, open ones too."""
        return _by_domain((key, part.num_prompts) for key, part in self.parts.items())


def _by_domain(amounts: Iterable[tuple[tuple[str, bool], int]]) -> dict[str, Stock]:
    found: dict[str, Stock] = {}
    for (domain, synthetic), amount in amounts:
        plain, made = found.get(domain, EMPTY)
        found[domain] = Stock(plain, made + amount) if synthetic else Stock(plain + amount, made)
    return found


def cell_key(traits: Traits, sources: Sequence[str]) -> CellKey:
    """The cell of prompts with these traits; `sources` name what is synthetic unless the row says so."""
    synthetic = traits.synthetic
    if synthetic is None:
        synthetic = any(fnmatchcase(traits.source, pattern) for pattern in sources)
    task = "" if traits.level is None else traits.task  # without a level there is nothing to tell apart
    return CellKey(traits.domain, task, traits.level, synthetic)
