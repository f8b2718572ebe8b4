"""Boards of numbers: their lines, how prompts show and answers write them, givens that make one solution."""

from __future__ import annotations

import random
from collections.abc import Sequence

from forklight_reward.logic.constraints import Rules, Search, number_domains, reveal_until_unique
from forklight_reward.logic.reading import read_integer_rows

Board = list[list[int]]
ROWS_HINT = (
    "Write the finished board inside \\boxed{}: the rows from top to bottom separated by ';', the numbers "
    "of a row from left "
    "to right separated by spaces"
)


def lines_of(num_rows: int, num_columns: int) -> list[tuple[int, ...]]:
    """Cells of every row, then of every column."""
    rows = [tuple(range(row * num_columns, (row + 1) * num_columns)) for row in range(num_rows)]
    return rows + [tuple(range(column, num_rows * num_columns, num_columns)) for column in range(num_columns)]


def rows_of(cells: Sequence[int], num_columns: int) -> Board:
    """A flat board as rows."""
    return [list(cells[start : start + num_columns]) for start in range(0, len(cells), num_columns)]


def flat(board: Sequence[Sequence[int]]) -> list[int]:
    """Rows as one list."""
    return [value for row in board for value in row]


def show(board: Sequence[Sequence[int]]) -> str:
    """For a prompt; 0 is an empty cell."""
    return "\n".join(" ".join(str(value) if value else "_" for value in row) for row in board)


def write(board: Sequence[Sequence[int]]) -> str:
    """As an answer."""
    return ";".join(" ".join(map(str, row)) for row in board)


def random_latin(chance: random.Random, size: int) -> Board:
    """Filled cell by cell; a cyclic square in random order when that takes long."""
    search = Search(Rules(differ=lines_of(size, size)), size * size, chance)
    found = search.find(number_domains([0] * (size * size), size), limit=1, most_nodes=300).boards
    if found:
        return rows_of(found[0], size)
    rows, columns, values = (chance.sample(range(size), size) for _ in range(3))
    return [[values[(row + column) % size] + 1 for column in columns] for row in rows]


def some_givens(chance: random.Random, truth: Sequence[int], count: int) -> list[int]:
    """All but `count` cells emptied."""
    kept = set(chance.sample(range(len(truth)), count))
    return [value if cell in kept else 0 for cell, value in enumerate(truth)]


def read_latin(answer: str, givens: Board) -> Board | None:
    """A board that keeps the givens and has 1..size in every row and column."""
    size = len(givens)
    board = read_integer_rows(answer, size, size)
    if board is None:
        return None
    wanted = list(range(1, size + 1))
    if any(sorted(line) != wanted for line in (*board, *zip(*board, strict=True))):
        return None
    kept = all(given in (0, value) for given, value in zip(flat(givens), flat(board), strict=True))
    return board if kept else None


def unique_givens(search: Search, truth: list[int], givens: list[int], chance: random.Random) -> list[int]:
    """The givens, and as many more as make the board the only one."""
    return unique_domains(search, truth, number_domains(givens, max(truth)), chance)


def unique_domains(search: Search, truth: list[int], domains: list[int], chance: random.Random) -> list[int]:
    """The values told when cells are revealed until there is one solution; 0 is hidden."""
    reveal_until_unique(search, truth, domains, chance=chance)
    return [0 if mask & (mask - 1) else mask.bit_length() - 1 for mask in domains]


def place(cell: int, num_columns: int) -> str:
    """A cell's name in prompts."""
    return f"r{cell // num_columns + 1}c{cell % num_columns + 1}"
