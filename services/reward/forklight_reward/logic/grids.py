"""Boards of numbers, each row and column without repeats: sudoku, futoshiki, skyscraper."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from forklight_reward.logic.boards import (
    ROWS_HINT,
    Board,
    flat,
    lines_of,
    place,
    random_latin,
    read_latin,
    rows_of,
    show,
    some_givens,
    unique_givens,
    write,
)
from forklight_reward.logic.constraints import (
    Option,
    Rules,
    Search,
    Table,
    number_domains,
    only_board,
)
from forklight_reward.logic.fields import whole, whole_rows, wholes
from forklight_reward.logic.task import LogicTask, Puzzle, Spec


def boxes_of(box_rows: int, box_columns: int) -> list[tuple[int, ...]]:
    """Cells of every box of a sudoku."""
    size = box_rows * box_columns
    return [
        tuple((top + row) * size + left + column for row in range(box_rows) for column in range(box_columns))
        for top in range(0, size, box_rows)
        for left in range(0, size, box_columns)
    ]


def solve_square(search: Search, givens: Board) -> str:
    """The one board that keeps the rules and the givens, as an answer."""
    size = len(givens)
    return write(rows_of(only_board(search, number_domains(flat(givens), size)), size))


@dataclass(frozen=True, slots=True)
class Sudoku:
    """4x4, 6x6 and 9x9."""

    name: str = "sudoku"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards with fewer givens."""
        box_rows, box_columns, count = ((2, 2, 7), (2, 3, 16), (2, 3, 8), (3, 3, 36), (3, 3, 22))[level - 1]
        size = box_rows * box_columns
        truth = flat(self.fill(chance, box_rows, box_columns))
        search = self.search(box_rows, box_columns)
        givens = rows_of(unique_givens(search, truth, some_givens(chance, truth, count), chance), size)
        prompt = (
            f"Complete this {size}x{size} sudoku. Every row, every column and every box of {box_rows} rows "
            f"by {box_columns} columns (the boxes tile the board from the top left corner) holds each of the "
            f"numbers 1 to {size} once. '_' is an empty cell.\n{show(givens)}\n{ROWS_HINT}, for example "
            "\\boxed{1 2 3 4;3 4 1 2;2 1 4 3;4 3 2 1}."
        )
        return Puzzle(
            prompt=prompt, spec={"box_rows": box_rows, "box_columns": box_columns, "givens": givens}
        )

    def fill(self, chance: random.Random, box_rows: int, box_columns: int) -> Board:
        """A full board, cell by cell; the standard pattern in random order when that takes long."""
        size = box_rows * box_columns
        search = self.search(box_rows, box_columns, chance)
        found = search.find(number_domains([0] * (size * size), size), limit=1, most_nodes=300).boards
        if found:
            return rows_of(found[0], size)
        rows = [
            band * box_rows + row
            for band in shuffled(chance, box_columns)
            for row in shuffled(chance, box_rows)
        ]
        columns = [
            stack * box_columns + column
            for stack in shuffled(chance, box_rows)
            for column in shuffled(chance, box_columns)
        ]
        values = shuffled(chance, size)
        return [
            [
                values[(box_columns * (row % box_rows) + row // box_rows + column) % size] + 1
                for column in columns
            ]
            for row in rows
        ]

    def search(self, box_rows: int, box_columns: int, chance: random.Random | None = None) -> Search:
        """The rules of this size."""
        size = box_rows * box_columns
        return Search(
            Rules(differ=[*lines_of(size, size), *boxes_of(box_rows, box_columns)]), size * size, chance
        )

    def solve(self, spec: Spec) -> str:
        """Search."""
        search = self.search(whole(spec, "box_rows"), whole(spec, "box_columns"))
        givens = whole_rows(spec, "givens")
        return solve_square(search, givens)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Rows, columns, boxes and givens."""
        board = read_latin(answer, whole_rows(spec, "givens"))
        if board is None:
            return False
        cells = flat(board)
        boxes = boxes_of(whole(spec, "box_rows"), whole(spec, "box_columns"))
        return all(len({cells[cell] for cell in box}) == len(box) for box in boxes)


def shuffled(chance: random.Random, count: int) -> list[int]:
    """0..count-1 in random order."""
    return chance.sample(range(count), count)


@lru_cache(maxsize=8)
def smaller_table(size: int) -> tuple[Option, ...]:
    """Pairs with the first value smaller."""
    return tuple((1 << low, 1 << high) for low, high in itertools.combinations(range(1, size + 1), 2))


@dataclass(frozen=True, slots=True)
class Futoshiki:
    """A latin square with signs between neighbours."""

    name: str = "futoshiki"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards, fewer signs and givens."""
        size, num_signs, count = ((4, 8, 4), (4, 6, 1), (5, 10, 1), (6, 15, 2), (7, 20, 3))[level - 1]
        truth = flat(random_latin(chance, size))
        neighbours = [(cell, cell + 1) for cell in range(size * size) if (cell + 1) % size]
        neighbours += [(cell, cell + size) for cell in range(size * (size - 1))]
        smaller = [
            [a, b] if truth[a] < truth[b] else [b, a] for a, b in sorted(chance.sample(neighbours, num_signs))
        ]
        search = self.search(size, smaller)
        givens = rows_of(unique_givens(search, truth, some_givens(chance, truth, count), chance), size)
        signs = ", ".join(f"{place(a, size)} < {place(b, size)}" for a, b in smaller)
        prompt = (
            f"Complete this {size}x{size} board so that every row and every column holds each of the numbers "
            f"1 to {size} once. '_' is an empty cell.\n{show(givens)}\nBesides (r2c3 is row 2 from the top, "
            f"column 3 from the left): {signs}.\n{ROWS_HINT}, for example \\boxed{{1 2 3;2 3 1;3 1 2}} for a "
            "3x3 board."
        )
        return Puzzle(prompt=prompt, spec={"givens": givens, "smaller": smaller})

    def search(self, size: int, smaller: Board) -> Search:
        """The rules of one puzzle."""
        tables = [Table(cells=(low, high), options=smaller_table(size)) for low, high in smaller]
        return Search(Rules(tables=tables, differ=lines_of(size, size)), size * size)

    def solve(self, spec: Spec) -> str:
        """Search."""
        givens = whole_rows(spec, "givens")
        search = self.search(len(givens), whole_rows(spec, "smaller"))
        return solve_square(search, givens)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Latin, with the givens and the signs."""
        board = read_latin(answer, whole_rows(spec, "givens"))
        if board is None:
            return False
        cells = flat(board)
        return all(cells[low] < cells[high] for low, high in whole_rows(spec, "smaller"))


def num_seen(heights: Sequence[int]) -> int:
    """How many are higher than all before."""
    tallest = seen = 0
    for height in heights:
        if height > tallest:
            tallest, seen = height, seen + 1
    return seen


@lru_cache(maxsize=256)
def street_table(size: int, first: int, last: int) -> tuple[Option, ...]:
    """Orders of heights with these counts from both ends; 0 is no clue."""
    return tuple(
        tuple(1 << height for height in heights)
        for heights in itertools.permutations(range(1, size + 1))
        if first in (0, num_seen(heights)) and last in (0, num_seen(heights[::-1]))
    )


SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True, slots=True)
class Skyscraper:
    """A latin square of heights with counts of what is seen from the borders."""

    name: str = "skyscraper"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards with fewer clues and givens."""
        size, num_hidden, count = ((3, 2, 1), (4, 0, 3), (4, 4, 0), (5, 4, 0), (6, 4, 0))[level - 1]
        board = random_latin(chance, size)
        clues = self.count_all(board)
        for clue in chance.sample(range(4 * size), num_hidden):
            clues[clue] = 0
        truth = flat(board)
        givens = rows_of(
            unique_givens(self.search(size, clues), truth, some_givens(chance, truth, count), chance), size
        )
        told = (clues[index * size : (index + 1) * size] for index in range(4))
        lines = [
            f"{side}: {' '.join(str(clue) if clue else '_' for clue in line)}"
            for side, line in zip(SIDES, told, strict=True)
        ]
        prompt = (
            f"Fill this {size}x{size} board with building heights so that every row and every column holds "
            f"each of 1 to {size} once. '_' is an empty cell.\n{show(givens)}\nA clue at a border counts the "
            "buildings seen from there along its row or column: a building is seen when all buildings "
            f"before it are lower ('_' is no clue).\n{chr(10).join(lines)}\n(left and right: for the rows "
            f"from top to bottom; top and bottom: for the columns from left to right)\n{ROWS_HINT}, for "
            "example \\boxed{1 2 3;2 3 1;3 1 2} for a 3x3 board."
        )
        return Puzzle(prompt=prompt, spec={"givens": givens, "clues": clues})

    def count_all(self, board: Board) -> list[int]:
        """Clues of a full board: left, right, top, bottom."""
        columns = list(zip(*board, strict=True))
        ahead, behind = (
            [num_seen(line) for line in lines] for lines in (board, [row[::-1] for row in board])
        )
        return (
            ahead + behind + [num_seen(line) for line in columns] + [num_seen(line[::-1]) for line in columns]
        )

    def search(self, size: int, clues: Sequence[int]) -> Search:
        """The rules of one puzzle."""
        lines = lines_of(size, size)
        pairs = [*zip(clues[:size], clues[size : 2 * size], strict=True)]
        pairs += zip(clues[2 * size : 3 * size], clues[3 * size :], strict=True)
        tables = [
            Table(cells=line, options=street_table(size, first, last))
            for line, (first, last) in zip(lines, pairs, strict=True)
            if first or last
        ]
        return Search(Rules(tables=tables, differ=lines), size * size)

    def solve(self, spec: Spec) -> str:
        """Search."""
        givens = whole_rows(spec, "givens")
        search = self.search(len(givens), wholes(spec, "clues"))
        return solve_square(search, givens)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Latin, with the givens and the clues."""
        board = read_latin(answer, whole_rows(spec, "givens"))
        if board is None:
            return False
        return all(
            clue in (0, seen) for clue, seen in zip(wholes(spec, "clues"), self.count_all(board), strict=True)
        )


GRID_TASKS: tuple[LogicTask, ...] = (Sudoku(), Futoshiki(), Skyscraper())
