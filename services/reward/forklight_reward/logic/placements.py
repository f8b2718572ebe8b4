"""One piece in every row: completed queens and small star battles."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from forklight_reward.logic.fields import texts, wholes
from forklight_reward.logic.reading import read_integers
from forklight_reward.logic.task import LogicTask, Puzzle, Spec

COLUMNS_HINT = (
    "Write inside \\boxed{} the column of the {piece} of every row, from row 1 (top) to the last row, "
    "separated by commas; columns count from 1 at the left, for example \\boxed{2,4,1,3} for a 4x4 board."
)


def read_columns(answer: str, size: int) -> list[int] | None:
    """One column for each row, counted from 0, all different."""
    columns = read_integers(answer, size)
    if columns is None or sorted(columns) != list(range(1, size + 1)):
        return None
    return [column - 1 for column in columns]


def as_columns(columns: Sequence[int]) -> str:
    """As an answer."""
    return ",".join(str(column + 1) for column in columns)


class Queens:
    """Depth first over rows; `fixed` holds a column or -1 for each row."""

    def __init__(self, fixed: Sequence[int], chance: random.Random | None = None) -> None:
        self.fixed = fixed
        self.size = len(fixed)
        self.chance = chance
        self.columns: list[int] = []

    def search(self, used: int = 0, rising: int = 0, falling: int = 0) -> Iterator[list[int]]:
        """All placements; the masks hold taken columns and diagonals."""
        row = len(self.columns)
        if row == self.size:
            yield list(self.columns)
            return
        order = [self.fixed[row]] if self.fixed[row] >= 0 else list(range(self.size))
        if self.chance is not None:
            self.chance.shuffle(order)
        for column in order:
            masks = (1 << column, 1 << (row + column), 1 << (row - column + self.size))
            if not (used & masks[0] or rising & masks[1] or falling & masks[2]):
                self.columns.append(column)
                yield from self.search(used | masks[0], rising | masks[1], falling | masks[2])
                self.columns.pop()


@dataclass(frozen=True, slots=True)
class NQueens:
    """Complete a placement of queens."""

    name: str = "n_queens"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards with a smaller share of queens placed."""
        size, num_fixed = ((5, 2), (6, 1), (8, 2), (10, 3), (12, 3))[level - 1]
        truth = next(Queens([-1] * size, chance).search())
        kept = set(chance.sample(range(size), num_fixed))
        fixed = [column if row in kept else -1 for row, column in enumerate(truth)]
        board = "\n".join(
            " ".join("Q" if column == place else "." for place in range(size)) for column in fixed
        )
        prompt = (
            f"Place {size} queens on this {size}x{size} board, one in every row, so that no two share a "
            "column or a diagonal. The queens shown as Q stay where they "
            f"are.\n{board}\n{COLUMNS_HINT.replace('{piece}', 'queen')}"
        )
        return Puzzle(prompt=prompt, spec={"fixed": fixed})

    def solve(self, spec: Spec) -> str:
        """Search."""
        return as_columns(next(Queens(wholes(spec, "fixed")).search()))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Columns and diagonals differ; the shown queens stay."""
        fixed = wholes(spec, "fixed")
        columns = read_columns(answer, len(fixed))
        if columns is None:
            return False
        if any(given not in (-1, column) for given, column in zip(fixed, columns, strict=True)):
            return False
        rising = {row + column for row, column in enumerate(columns)}
        falling = {row - column for row, column in enumerate(columns)}
        return len(rising) == len(falling) == len(columns)


class Stars:
    """Depth first over rows: columns and regions differ, stars of neighbouring rows do not touch."""

    def __init__(
        self, regions: Sequence[str], fixed: Sequence[int], chance: random.Random | None = None
    ) -> None:
        self.regions = regions
        self.fixed = fixed
        self.chance = chance
        self.columns: list[int] = []
        self.used_regions: set[str] = set()

    def search(self) -> Iterator[list[int]]:
        """All placements; without regions when their rows are empty."""
        row = len(self.columns)
        size = len(self.fixed)
        if row == size:
            yield list(self.columns)
            return
        order = [self.fixed[row]] if self.fixed[row] >= 0 else list(range(size))
        if self.chance is not None:
            self.chance.shuffle(order)
        for column in order:
            region = self.regions[row][column] if self.regions else ""
            if column in self.columns or region in self.used_regions:
                continue
            if self.columns and abs(column - self.columns[-1]) < 2:
                continue
            self.columns.append(column)
            if region:
                self.used_regions.add(region)
            yield from self.search()
            self.used_regions.discard(region)
            self.columns.pop()


def grow_regions(chance: random.Random, stars: Sequence[int]) -> list[str]:
    """Connected regions, one around each star, grown cell by cell."""
    size = len(stars)
    region = {(row, column): row for row, column in enumerate(stars)}
    border = [*region]
    while len(region) < size * size:
        row, column = chance.choice(border)
        free = [
            (r, c)
            for r, c in sides_of(row, column)
            if 0 <= r < size and 0 <= c < size and (r, c) not in region
        ]
        if not free:
            border.remove((row, column))
            continue
        chosen = chance.choice(free)
        region[chosen] = region[row, column]
        border.append(chosen)
    return ["".join(chr(ord("A") + region[row, column]) for column in range(size)) for row in range(size)]


def other_placement(truth: Sequence[int], regions: Sequence[str], fixed: Sequence[int]) -> list[int] | None:
    """A second solution."""
    found = islice(Stars(regions, fixed).search(), 2)
    return next((columns for columns in found if columns != list(truth)), None)


def is_connected(cells: set[tuple[int, int]]) -> bool:
    """Whether a region hangs together."""
    seen, stack = set[tuple[int, int]](), list(cells)[:1]
    while stack:
        row, column = stack.pop()
        if (row, column) in cells and (row, column) not in seen:
            seen.add((row, column))
            stack += sides_of(row, column)
    return seen == cells


def sides_of(row: int, column: int) -> list[tuple[int, int]]:
    """The cells above, below, left and right."""
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


def mend_regions(chance: random.Random, regions: Sequence[str], truth: Sequence[int]) -> list[str]:
    """Give a star cell of a second solution to a neighbouring region, up to 25 times, until there is none."""
    board = {(row, column): name for row, line in enumerate(regions) for column, name in enumerate(line)}
    for _ in range(25):
        other = other_placement(truth, lines_from(board, len(truth)), [-1] * len(truth))
        if other is None:
            break
        wrong = [(row, column) for row, column in enumerate(other) if truth[row] != column]
        for cell in chance.sample(wrong, len(wrong)):
            near = sorted({board[side] for side in sides_of(*cell) if side in board} - {board[cell]})
            if near and is_connected({each for each, name in board.items() if name == board[cell]} - {cell}):
                board[cell] = chance.choice(near)
                break
    return lines_from(board, len(truth))


def lines_from(board: dict[tuple[int, int], str], size: int) -> list[str]:
    """Regions as rows of letters."""
    return ["".join(board[row, column] for column in range(size)) for row in range(size)]


@dataclass(frozen=True, slots=True)
class StarBattleMini:
    """One star in every row, column and region, none touching."""

    name: str = "star_battle_mini"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards; stars are given away while there are two solutions."""
        size = level + 4
        truth = next(Stars([], [-1] * size, chance).search())
        regions = mend_regions(chance, grow_regions(chance, truth), truth)
        fixed = self.fix_until_unique(chance, truth, regions)
        given = [
            f"row {row + 1} has its star in column {column + 1}"
            for row, column in enumerate(fixed)
            if column >= 0
        ]
        told = f"Given: {'; '.join(given)}.\n" if given else ""
        board = "\n".join(" ".join(row) for row in regions)
        prompt = (
            f"Solve this {size}x{size} star battle. Put one star into every row, every column and every "
            "region (cells with the same letter), so that no two stars touch, also not "
            f"diagonally.\n{board}\n{told}{COLUMNS_HINT.replace('{piece}', 'star')}"
        )
        return Puzzle(prompt=prompt, spec={"regions": regions, "fixed": fixed})

    def fix_until_unique(
        self, chance: random.Random, truth: Sequence[int], regions: Sequence[str]
    ) -> list[int]:
        """Columns given away, -1 for the others."""
        fixed = [-1] * len(truth)
        while True:
            other = other_placement(truth, regions, fixed)
            if other is None:
                return fixed
            row = chance.choice([row for row, column in enumerate(truth) if other[row] != column])
            fixed[row] = truth[row]

    def solve(self, spec: Spec) -> str:
        """Search."""
        return as_columns(next(Stars(texts(spec, "regions"), wholes(spec, "fixed")).search()))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Columns, regions, distances and the given stars."""
        regions, fixed = texts(spec, "regions"), wholes(spec, "fixed")
        columns = read_columns(answer, len(fixed))
        if columns is None or any(abs(left - right) < 2 for left, right in pairwise(columns)):
            return False
        if any(given not in (-1, column) for given, column in zip(fixed, columns, strict=True)):
            return False
        return len({regions[row][column] for row, column in enumerate(columns)}) == len(columns)


PLACEMENT_TASKS: tuple[LogicTask, ...] = (NQueens(), StarBattleMini())
