"""Boards of 0 and 1: nonogram, binary puzzle, minesweeper."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from forklight_reward.logic.boards import lines_of, rows_of, unique_domains
from forklight_reward.logic.constraints import Option, Rules, Search, Table, only_board
from forklight_reward.logic.fields import text_rows, texts, whole_rows
from forklight_reward.logic.reading import read_symbol_rows
from forklight_reward.logic.task import LogicTask, Puzzle, Spec

EITHER = 0b11
ROWS_OF_MARKS = (
    "Write the board inside \\boxed{}: the rows from top to bottom separated by ';', one symbol for each "
    "cell without spaces"
)


def as_rows(cells: Sequence[int], num_columns: int) -> str:
    """A board of marks as an answer."""
    return ";".join("".join(map(str, row)) for row in rows_of(cells, num_columns))


def read_marks(answer: str, num_rows: int, num_columns: int) -> list[int] | None:
    """A board of 0 and 1, flat."""
    rows = read_symbol_rows(answer, num_rows, num_columns, "01")
    return None if rows is None else [int(symbol) for row in rows for symbol in row]


def option(marks: Sequence[int]) -> Option:
    """Marks as masks."""
    return tuple(1 << mark for mark in marks)


def blocks_of(marks: Sequence[int]) -> list[int]:
    """Lengths of the runs of 1."""
    return [len(list(group)) for mark, group in itertools.groupby(marks) if mark]


@lru_cache(maxsize=512)
def lines_with(blocks: tuple[int, ...], length: int) -> tuple[Option, ...]:
    """All lines with these blocks."""
    num_gaps = length - sum(blocks) + 1
    made = []
    for starts in itertools.combinations(range(num_gaps), len(blocks)):
        marks = [0] * length
        shift = 0
        for start, size in zip(starts, blocks, strict=True):
            marks[start + shift : start + shift + size] = [1] * size
            shift += size
        made.append(option(marks))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Nonogram:
    """Fill cells so that rows and columns have the told blocks."""

    name: str = "nonogram"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards; where two pictures fit, cells are filled in until one does."""
        size = (4, 5, 6, 8, 10)[level - 1]
        truth = [int(chance.random() < 0.5) for _ in range(size * size)]
        while True:
            blocks = [blocks_of([truth[cell] for cell in line]) for line in lines_of(size, size)]
            found = self.search(blocks).find([EITHER] * (size * size), limit=2, most_nodes=60)
            other = next((board for board in found.boards if board != truth), None)
            if found.complete and other is None:
                break
            empty = [cell for cell, mark in enumerate(truth) if not mark and (other is None or other[cell])]
            truth[chance.choice(empty)] = 1
        told = [" ".join(map(str, line)) or "0" for line in blocks]
        prompt = (
            f"Solve this {size}x{size} nonogram. Some cells are filled. The numbers of a row or column are "
            "the lengths of its blocks of neighbouring filled cells, from left to right or from top to "
            "bottom; at least one empty cell lies between two blocks, and 0 means that nothing is "
            f"filled.\nRows from top to bottom: {', '.join(told[:size])}\nColumns from left to right: "
            f"{', '.join(told[size:])}\n{ROWS_OF_MARKS}, 1 for filled and 0 for empty, for example "
            "\\boxed{110;001;111}."
        )
        return Puzzle(prompt=prompt, spec={"blocks": blocks})

    def search(self, blocks: Sequence[Sequence[int]]) -> Search:
        """The rules of one puzzle."""
        size = len(blocks) // 2
        tables = [
            Table(cells=line, options=lines_with(tuple(sizes), size))
            for line, sizes in zip(lines_of(size, size), blocks, strict=True)
        ]
        return Search(Rules(tables=tables), size * size)

    def solve(self, spec: Spec) -> str:
        """Search."""
        blocks = whole_rows(spec, "blocks")
        size = len(blocks) // 2
        return as_rows(only_board(self.search(blocks), [EITHER] * (size * size)), size)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Blocks of every line."""
        blocks = whole_rows(spec, "blocks")
        size = len(blocks) // 2
        cells = read_marks(answer, size, size)
        if cells is None:
            return False
        lines = lines_of(size, size)
        return all(
            blocks_of([cells[cell] for cell in line]) == told
            for line, told in zip(lines, blocks, strict=True)
        )


def is_balanced(marks: Sequence[int]) -> bool:
    """As many 0 as 1, and never three of the same in a row."""
    return 2 * sum(marks) == len(marks) and all(len(list(group)) < 3 for _, group in itertools.groupby(marks))


@lru_cache(maxsize=8)
def balanced_lines(size: int) -> tuple[Option, ...]:
    """All lines of a binary puzzle."""
    return tuple(option(marks) for marks in itertools.product((0, 1), repeat=size) if is_balanced(marks))


@dataclass(frozen=True, slots=True)
class BinaryPuzzle:
    """Takuzu without the rule that lines differ."""

    name: str = "binary_puzzle"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards with fewer givens."""
        size, num_givens = ((4, 5), (6, 11), (6, 5), (8, 18), (10, 32))[level - 1]
        num_cells = size * size
        drawn = [EITHER] * num_cells
        for cell in chance.sample(range(num_cells), size // 2):
            drawn[cell] = 1 << chance.randrange(2)
        truth = self.search(size, chance).find(drawn, limit=1, most_nodes=200).boards
        while not truth:
            truth = self.search(size, chance).find([EITHER] * num_cells, limit=1, most_nodes=1000).boards
        kept = set(chance.sample(range(num_cells), num_givens))
        domains = [1 << mark if cell in kept else EITHER for cell, mark in enumerate(truth[0])]
        search = self.search(size)
        unique_domains(search, truth[0], domains, chance)
        givens = [
            "".join("_01_"[mask] if mask != EITHER else "_" for mask in row) for row in rows_of(domains, size)
        ]
        lines = "\n".join(givens)
        prompt = (
            f"Complete this {size}x{size} binary puzzle with 0 and 1. Every row and every column holds as "
            "many 0 as 1, and nowhere in a row or a column are there three equal symbols next to each other "
            f"(two equal rows are allowed). '_' is an empty cell.\n{lines}\n{ROWS_OF_MARKS}, for example "
            "\\boxed{0110;1001;0011;1100}."
        )
        return Puzzle(prompt=prompt, spec={"givens": givens})

    def search(self, size: int, chance: random.Random | None = None) -> Search:
        """The rules of this size."""
        tables = [Table(cells=line, options=balanced_lines(size)) for line in lines_of(size, size)]
        return Search(Rules(tables=tables), size * size, chance)

    def solve(self, spec: Spec) -> str:
        """Search."""
        givens = texts(spec, "givens")
        domains = [EITHER if mark == "_" else 1 << int(mark) for row in givens for mark in row]
        return as_rows(only_board(self.search(len(givens)), domains), len(givens))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Balanced lines and the givens."""
        givens = texts(spec, "givens")
        cells = read_marks(answer, len(givens), len(givens))
        if cells is None:
            return False
        kept = all(given in ("_", str(mark)) for given, mark in zip("".join(givens), cells, strict=True))
        return kept and all(
            is_balanced([cells[cell] for cell in line]) for line in lines_of(len(givens), len(givens))
        )


HIDDEN = "?"


def around(cell: int, num_rows: int, num_columns: int) -> list[int]:
    """The up to eight neighbours."""
    row, column = divmod(cell, num_columns)
    return [
        r * num_columns + c
        for r in range(max(0, row - 1), min(num_rows, row + 2))
        for c in range(max(0, column - 1), min(num_columns, column + 2))
        if (r, c) != (row, column)
    ]


@lru_cache(maxsize=128)
def some_of(count: int, length: int) -> tuple[Option, ...]:
    """All ways to have `count` mines in `length` cells."""
    return tuple(option(marks) for marks in itertools.product((0, 1), repeat=length) if sum(marks) == count)


@dataclass(frozen=True, slots=True)
class Minesweeper:
    """Find all mines from the numbers shown."""

    name: str = "minesweeper"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards, fewer numbers; numbers are added until the mines are certain."""
        size, num_mines, share = ((4, 3, 60), (5, 5, 50), (6, 8, 45), (7, 11, 40), (8, 14, 35))[level - 1]
        while True:
            mines = set(chance.sample(range(size * size), num_mines))
            shown = {
                cell for cell in range(size * size) if cell not in mines and chance.randrange(100) < share
            }
            if self.show_until_certain(chance, size, mines, shown):
                break
        board = [
            str(len(mines.intersection(around(cell, size, size)))) if cell in shown else HIDDEN
            for cell in range(size * size)
        ]
        rows = [board[start : start + size] for start in range(0, size * size, size)]
        lines = "\n".join(" ".join(row) for row in rows)
        prompt = (
            f"This minesweeper board has {size} rows and {size} columns. A number tells how many of the up "
            "to eight neighbouring cells hold a mine; cells with a number hold none. '?' is a cell that "
            f"holds a mine or does not; the numbers leave exactly one possibility.\n{lines}\nFind all mines. "
            f"{ROWS_OF_MARKS}, 1 for a mine and 0 for none, for example \\boxed{{100;000;011}}."
        )
        return Puzzle(prompt=prompt, spec={"board": rows})

    def show_until_certain(self, chance: random.Random, size: int, mines: set[int], shown: set[int]) -> bool:
        """Show numbers where another layout fits; False when no number would help."""
        truth = [int(cell in mines) for cell in range(size * size)]
        while True:
            counts = {cell: len(mines.intersection(around(cell, size, size))) for cell in sorted(shown)}
            domains = [1 if cell in shown else EITHER for cell in range(size * size)]
            found = self.search(size, counts).find(domains, limit=2, most_nodes=100)
            other = next((board for board in found.boards if board != truth), None)
            if found.complete and other is None:
                return True
            differing = [cell for cell in range(size * size) if other is None or other[cell] != truth[cell]]
            near = [cell for each in differing for cell in (each, *around(each, size, size))]
            useful = sorted({cell for cell in near if cell not in mines and cell not in shown})
            if not useful:
                return False
            shown.add(chance.choice(useful))

    def search(self, size: int, counts: dict[int, int]) -> Search:
        """The rules of one board; cells with a number are safe by their domain."""
        tables = []
        for cell, count in counts.items():
            hidden = tuple(each for each in around(cell, size, size) if each not in counts)
            if hidden:
                tables.append(Table(cells=hidden, options=some_of(count, len(hidden))))
        return Search(Rules(tables=tables), size * size)

    def solve(self, spec: Spec) -> str:
        """Search."""
        rows = text_rows(spec, "board")
        size = len(rows)
        counts = {
            cell: int(mark)
            for cell, mark in enumerate(mark for row in rows for mark in row)
            if mark != HIDDEN
        }
        domains = [1 if cell in counts else EITHER for cell in range(size * size)]
        return as_rows(only_board(self.search(size, counts), domains), size)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Every number agrees, and no mine lies on one."""
        rows = text_rows(spec, "board")
        size = len(rows)
        cells = read_marks(answer, size, size)
        if cells is None:
            return False
        marks = [mark for row in rows for mark in row]
        for cell, mark in enumerate(marks):
            if mark != HIDDEN and (
                cells[cell] or sum(cells[each] for each in around(cell, size, size)) != int(mark)
            ):
                return False
        return True


MARK_TASKS: tuple[LogicTask, ...] = (Nonogram(), BinaryPuzzle(), Minesweeper())
