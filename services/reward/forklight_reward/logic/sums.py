"""Boards of numbers with sums: kakuro and magic squares."""

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
    rows_of,
    show,
    unique_domains,
    write,
)
from forklight_reward.logic.constraints import Option, Rules, Search, Table, only_board
from forklight_reward.logic.fields import whole, whole_rows
from forklight_reward.logic.reading import read_integer_rows
from forklight_reward.logic.task import LogicTask, Puzzle, Spec

LONGEST_RUN = 4
BLACK = 0


@lru_cache(maxsize=256)
def run_table(length: int, total: int) -> tuple[Option, ...]:
    """Different digits 1..9 with this sum, in every order."""
    return tuple(
        tuple(1 << digit for digit in digits)
        for chosen in itertools.combinations(range(1, 10), length)
        if sum(chosen) == total
        for digits in itertools.permutations(chosen)
    )


def runs_of(white: Sequence[Sequence[int]]) -> list[list[int]]:
    """Cells of every run of white cells in a row or a column; single cells are no run."""
    num_columns = len(white[0])
    cells = flat(white)
    runs: list[list[int]] = []
    for line in lines_of(len(white), num_columns):
        for is_white, group in itertools.groupby(line, key=lambda cell: bool(cells[cell])):
            run = list(group)
            if is_white and len(run) > 1:
                runs.append(run)
    return runs


@dataclass(frozen=True, slots=True)
class KakuroMini:
    """Runs of different digits with given sums."""

    name: str = "kakuro_mini"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards; black cells cut long runs; givens make the solution unique."""
        num_rows, num_columns, num_givens = ((2, 3, 1), (3, 3, 1), (4, 4, 2), (5, 5, 3), (6, 6, 4))[level - 1]
        runs, truth = None, None
        while runs is None or truth is None:
            white = self.draw_white(chance, num_rows, num_columns)
            runs = runs_of(white)
            truth = self.fill(chance, flat(white), runs)
        sums = [sum(truth[cell] for cell in run) for run in runs]
        givens = self.choose_givens(chance, truth, runs, num_givens)
        board = "\n".join(
            " ".join(
                "#" if not is_white else str(given) if given else "_"
                for is_white, given in zip(*rows, strict=True)
            )
            for rows in zip(white, rows_of(givens, num_columns), strict=True)
        )
        told = "\n".join(
            f"{place(run[0], num_columns)}-{place(run[-1], num_columns)}: {total}"
            for run, total in zip(runs, sums, strict=True)
        )
        prompt = (
            "Solve this small kakuro. Put one digit from 1 to 9 into every white cell; '_' is an empty "
            f"white cell, a digit is given, '#' is black and stays empty.\n{board}\nEach run of white cells "
            "has the stated sum and no digit twice (r2c3 is row 2 from the top, column 3 from the "
            f"left):\n{told}\n{ROWS_HINT}; write 0 for a black cell, for example \\boxed{{1 2 0;3 4 5}}."
        )
        spec: Spec = {
            "white": white,
            "givens": rows_of(givens, num_columns),
            "runs": runs,
            "sums": [[total] for total in sums],
        }
        return Puzzle(prompt=prompt, spec=spec)

    def draw_white(self, chance: random.Random, num_rows: int, num_columns: int) -> Board:
        """Black cells at random until no run is longer than 4; no white cell is without a run."""
        while True:
            white = [[1] * num_columns for _ in range(num_rows)]
            for _ in range(max(num_rows, num_columns) * 2):
                if max(map(len, runs_of(white))) <= LONGEST_RUN:
                    break
                long = [run for run in runs_of(white) if len(run) > LONGEST_RUN]
                cell = chance.choice(chance.choice(long))
                white[cell // num_columns][cell % num_columns] = 0
            runs = runs_of(white)
            lonely = set(range(num_rows * num_columns)).difference(*runs)
            if all(not flat(white)[cell] for cell in lonely) and max(map(len, runs)) <= LONGEST_RUN:
                return white

    def fill(self, chance: random.Random, white: list[int], runs: list[list[int]]) -> list[int] | None:
        """Random digits without repeats in runs; black cells are 0."""
        domains = [(1 << 10) - 2 if is_white else 1 << BLACK for is_white in white]
        boards = Search(Rules(differ=runs), len(white), chance).find(domains, limit=1, most_nodes=500).boards
        return boards[0] if boards else None

    def search(self, num_cells: int, runs: Board, sums: Sequence[int]) -> Search:
        """The rules of one puzzle."""
        tables = [
            Table(cells=tuple(run), options=run_table(len(run), total))
            for run, total in zip(runs, sums, strict=True)
        ]
        return Search(Rules(tables=tables), num_cells)

    def choose_givens(self, chance: random.Random, truth: list[int], runs: Board, count: int) -> list[int]:
        """A few, and as many more as the solution needs to be the only one."""
        sums = [sum(truth[cell] for cell in run) for run in runs]
        kept = chance.sample([cell for cell, digit in enumerate(truth) if digit], count)
        domains = [
            1 << digit if cell in kept or not digit else (1 << 10) - 2 for cell, digit in enumerate(truth)
        ]
        return unique_domains(self.search(len(truth), runs, sums), truth, domains, chance)

    def solve(self, spec: Spec) -> str:
        """Search."""
        white, givens = flat(whole_rows(spec, "white")), flat(whole_rows(spec, "givens"))
        domains = [
            1 << given if given or not is_white else (1 << 10) - 2
            for is_white, given in zip(white, givens, strict=True)
        ]
        search = self.search(len(white), whole_rows(spec, "runs"), flat(whole_rows(spec, "sums")))
        return write(rows_of(only_board(search, domains), len(whole_rows(spec, "white")[0])))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Digits where they belong, givens kept, sums right, no repeats."""
        white, givens = whole_rows(spec, "white"), flat(whole_rows(spec, "givens"))
        board = read_integer_rows(answer, len(white), len(white[0]))
        if board is None:
            return False
        cells = flat(board)
        for is_white, given, digit in zip(flat(white), givens, cells, strict=True):
            if (not 1 <= digit <= 9) if is_white else digit != BLACK:
                return False
            if given not in (0, digit):
                return False
        for run, (total,) in zip(whole_rows(spec, "runs"), whole_rows(spec, "sums"), strict=True):
            digits = [cells[cell] for cell in run]
            if sum(digits) != total or len(set(digits)) != len(digits):
                return False
        return True


def magic_lines(size: int) -> list[tuple[int, ...]]:
    """Rows, columns and both diagonals."""
    down = tuple(step * (size + 1) for step in range(size))
    up = tuple((step + 1) * (size - 1) for step in range(size))
    return [*lines_of(size, size), down, up]


def draw_magic(chance: random.Random, size: int) -> list[int]:
    """A classical square, turned, mirrored, complemented, with symmetric pairs of lines exchanged."""
    if size == 4:
        square = [16, 3, 2, 13, 5, 10, 11, 8, 9, 6, 7, 12, 4, 15, 14, 1]
    else:
        square = [0] * (size * size)
        row, column = 0, size // 2
        for number in range(1, size * size + 1):
            square[row * size + column] = number
            above, right = (row - 1) % size, (column + 1) % size
            row, column = ((row + 1) % size, column) if square[above * size + right] else (above, right)
    board = rows_of(square, size)
    order = list(range(size))
    for low in range(size // 2):
        if chance.random() < 0.5:
            order[low], order[-1 - low] = order[-1 - low], order[low]
    board = [[board[row][column] for column in order] for row in order]
    if chance.random() < 0.5:
        board = [[size * size + 1 - value for value in row] for row in board]
    for _ in range(chance.randrange(4)):
        board = [list(row) for row in zip(*board[::-1], strict=True)]
    return flat(board if chance.random() < 0.5 else board[::-1])


def complete_magic(
    cells: list[int], size: int, lines: Sequence[tuple[int, ...]], most_nodes: list[int]
) -> bool:
    """Fill the zeros in place: the line with the fewest empty cells first; a last cell is forced."""
    most_nodes[0] -= 1
    if most_nodes[0] < 0:
        return False
    total = size * (size * size + 1) // 2
    best: tuple[int, int, int] | None = None
    for line in lines:
        values = [cells[cell] for cell in line]
        num_open = values.count(0)
        missing = total - sum(values)
        if (num_open == 0 and missing) or missing < num_open:
            return False
        if num_open and (best is None or num_open < best[0]):
            best = (num_open, next(cell for cell in line if not cells[cell]), missing)
    if best is None:
        return True
    num_open, cell, missing = best
    free = set(range(1, size * size + 1)) - set(cells)
    for value in sorted(free & {missing} if num_open == 1 else free):
        cells[cell] = value
        if complete_magic(cells, size, lines, most_nodes):
            return True
    cells[cell] = 0
    return False


@dataclass(frozen=True, slots=True)
class MagicSquare:
    """Complete a magic square; any completion is right."""

    name: str = "magic_square"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger squares with more cells hidden."""
        size, num_hidden = ((3, 4), (3, 6), (4, 8), (4, 11), (5, 13))[level - 1]
        truth = draw_magic(chance, size)
        hidden = set(chance.sample(range(size * size), num_hidden))
        givens = rows_of([0 if cell in hidden else value for cell, value in enumerate(truth)], size)
        total = size * (size * size + 1) // 2
        prompt = (
            f"Complete this magic square of size {size}. It holds each of the numbers 1 to {size * size} "
            f"once, and every row, every column and both diagonals have the sum {total}. '_' is an empty "
            f"cell.\n{show(givens)}\n{ROWS_HINT}, for example \\boxed{{8 1 6;3 5 7;4 9 2}}."
        )
        return Puzzle(prompt=prompt, spec={"size": size, "givens": givens, "made_from": rows_of(truth, size)})

    def solve(self, spec: Spec) -> str:
        """Search; the square that the puzzle was made from when the work runs out."""
        size, cells = whole(spec, "size"), flat(whole_rows(spec, "givens"))
        if not complete_magic(cells, size, magic_lines(size), [5000]):
            return write(whole_rows(spec, "made_from"))
        return write(rows_of(cells, size))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All numbers once, givens kept, sums right."""
        size = whole(spec, "size")
        board = read_integer_rows(answer, size, size)
        if board is None:
            return False
        cells = flat(board)
        if sorted(cells) != list(range(1, size * size + 1)):
            return False
        if any(
            given not in (0, value)
            for given, value in zip(flat(whole_rows(spec, "givens")), cells, strict=True)
        ):
            return False
        total = size * (size * size + 1) // 2
        return all(sum(cells[cell] for cell in line) == total for line in magic_lines(size))


SUM_TASKS: tuple[LogicTask, ...] = (KakuroMini(), MagicSquare())
