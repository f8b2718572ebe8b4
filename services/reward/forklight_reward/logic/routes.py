"""Shortest ways: mazes, knights and letter ladders. Any shortest way is right."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from forklight_reward.logic.fields import text, texts, whole
from forklight_reward.logic.reading import plain, read_path
from forklight_reward.logic.task import LogicTask, Puzzle, Spec

Node = TypeVar("Node", tuple[int, int], str)
Cell = tuple[int, int]
STEPS = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
JUMPS = ((1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2))
FILES = "abcdefghij"


def distances(start: Node, neighbours: Callable[[Node], Iterable[Node]]) -> dict[Node, Node | None]:
    """For every node that can be reached the one before it on a shortest way, nearest nodes first."""
    before: dict[Node, Node | None] = {start: None}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for other in neighbours(node):
            if other not in before:
                before[other] = node
                queue.append(other)
    return before


def way_to(goal: Node, before: dict[Node, Node | None]) -> list[Node]:
    """From the start to the goal; empty when there is no way."""
    way: list[Node] = []
    node: Node | None = goal if goal in before else None
    while node is not None:
        way.append(node)
        node = before[node]
    return way[::-1]


def open_neighbours(rows: Sequence[str], cell: Cell) -> list[Cell]:
    """Cells without a wall on the four sides."""
    sides = [(cell[0] + down, cell[1] + right) for down, right in STEPS.values()]
    return [(r, c) for r, c in sides if 0 <= r < len(rows) and 0 <= c < len(rows[0]) and rows[r][c] != "#"]


def carve(chance: random.Random, size: int) -> list[list[str]]:
    """A random tree of corridors on the odd cells, then some walls opened so that there are several ways."""
    width = 2 * size + 1
    board = [["#"] * width for _ in range(width)]
    stack = [(1, 1)]
    board[1][1] = "."
    while stack:
        row, column = stack[-1]
        sides = [(row + 2 * down, column + 2 * right) for down, right in STEPS.values()]
        free = [(r, c) for r, c in sides if 0 < r < width and 0 < c < width and board[r][c] == "#"]
        if not free:
            stack.pop()
            continue
        r, c = chance.choice(free)
        board[r][c] = board[(row + r) // 2][(column + c) // 2] = "."
        stack.append((r, c))
    walls = [
        (r, c) for r in range(1, width - 1) for c in range(1, width - 1) if (r + c) % 2 and board[r][c] == "#"
    ]
    for r, c in chance.sample(walls, len(walls) // 6):
        board[r][c] = "."
    return board


@dataclass(frozen=True, slots=True)
class MazeShortest:
    """A shortest way through a maze."""

    name: str = "maze_shortest"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger mazes; start and goal far from each other."""
        board = carve(chance, level + 2)
        rows = ["".join(row) for row in board]
        cells = [(r, c) for r, row in enumerate(rows) for c, mark in enumerate(row) if mark == "."]
        start = chance.choice(cells)
        before = distances(start, lambda cell: open_neighbours(rows, cell))
        goal = chance.choice(list(before)[-3:])
        board[start[0]][start[1]], board[goal[0]][goal[1]] = "S", "G"
        marked = ["".join(row) for row in board]
        shown = "\n".join(marked)
        prompt = (
            f"In this maze '#' is a wall, '.' is free, S is the start and G is the goal.\n{shown}\nFind a "
            "shortest way from S to G; a step goes to the next cell up (U), down (D), left (L) or right "
            "(R), never into a wall. Write the steps inside \\boxed{} as letters without anything between "
            "them, for example \\boxed{RRDDL}."
        )
        return Puzzle(prompt=prompt, spec={"rows": marked, "num_steps": len(way_to(goal, before)) - 1})

    def solve(self, spec: Spec) -> str:
        """Breadth first."""
        rows = texts(spec, "rows")
        before = distances(find_mark(rows, "S"), lambda cell: open_neighbours(rows, cell))
        letters = {step: letter for letter, step in STEPS.items()}
        return "".join(
            letters[b[0] - a[0], b[1] - a[1]] for a, b in pairwise(way_to(find_mark(rows, "G"), before))
        )

    def verify(self, spec: Spec, answer: str) -> bool:
        """Every step is free, the end is the goal, and no way is shorter."""
        rows = texts(spec, "rows")
        steps = plain(answer)
        if steps is None or len(steps) != whole(spec, "num_steps"):
            return False
        row, column = find_mark(rows, "S")
        for letter in steps:
            if letter not in STEPS:
                return False
            row, column = row + STEPS[letter][0], column + STEPS[letter][1]
            if rows[row][column] == "#":
                return False
        return rows[row][column] == "G"


def find_mark(rows: Sequence[str], mark: str) -> Cell:
    """The cell of a mark; mazes have walls all around."""
    return next((r, row.index(mark)) for r, row in enumerate(rows) if mark in row)


def square_name(cell: Cell) -> str:
    """As in chess."""
    return f"{FILES[cell[0]]}{cell[1] + 1}"


def jumps_from(cell: Cell, size: int, blocked: frozenset[str]) -> list[Cell]:
    """Where a knight may go."""
    reached = [(cell[0] + right, cell[1] + up) for right, up in JUMPS]
    return [
        (x, y) for x, y in reached if 0 <= x < size and 0 <= y < size and square_name((x, y)) not in blocked
    ]


@dataclass(frozen=True, slots=True)
class KnightMoves:
    """A shortest way of a knight around blocked squares."""

    name: str = "knight_moves"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Larger boards, more blocked squares, longer ways."""
        size, num_blocked, least = ((5, 3, 2), (6, 9, 3), (7, 16, 5), (8, 24, 7), (10, 42, 9))[level - 1]
        names = [square_name((x, y)) for x in range(size) for y in range(size)]
        while True:
            start = (chance.randrange(size), chance.randrange(size))
            blocked = frozenset(
                chance.sample([name for name in names if name != square_name(start)], num_blocked)
            )
            before = distances(start, lambda cell, blocked=blocked: jumps_from(cell, size, blocked))  # type: ignore[misc]
            ways = [way_to(cell, before) for cell in list(before)[-6:]]
            far = [way for way in ways if len(way) > least]
            if far:
                way = chance.choice(far)
                break
        prompt = (
            f"A knight stands on {square_name(start)} of a {size}x{size} chess board (files {FILES[0]} to "
            f"{FILES[size - 1]}, ranks 1 to {size}). It may not stop on these squares: "
            f"{', '.join(sorted(blocked))}. Find a shortest sequence of knight moves to "
            f"{square_name(way[-1])}. Write all squares from the first to the last inside \\boxed{{}}, "
            "joined by '->', for example \\boxed{a1->b3->c5}."
        )
        squares = [square_name(start), square_name(way[-1])]
        spec: Spec = {"size": size, "blocked": sorted(blocked), "ends": squares, "num_moves": len(way) - 1}
        return Puzzle(prompt=prompt, spec=spec)

    def solve(self, spec: Spec) -> str:
        """Breadth first."""
        size, blocked = whole(spec, "size"), frozenset(texts(spec, "blocked"))
        cells = {square_name((x, y)): (x, y) for x in range(size) for y in range(size)}
        start, goal = (cells[name] for name in texts(spec, "ends"))
        before = distances(start, lambda cell: jumps_from(cell, size, blocked))
        return "->".join(map(square_name, way_to(goal, before)))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Both ends, knight moves, no blocked square, and no way is shorter."""
        size, blocked, ends = whole(spec, "size"), frozenset(texts(spec, "blocked")), texts(spec, "ends")
        path = read_path(answer)
        if path is None or len(path) != whole(spec, "num_moves") + 1 or [path[0], path[-1]] != ends:
            return False
        cells = {square_name((x, y)): (x, y) for x in range(size) for y in range(size)}
        if any(name not in cells or name in blocked for name in path):
            return False
        jumps = ((cells[b][0] - cells[a][0], cells[b][1] - cells[a][1]) for a, b in pairwise(path))
        return all(jump in JUMPS for jump in jumps)


def num_changes(word: str, other: str) -> int:
    """In how many places two words of one length differ."""
    return sum(a != b for a, b in zip(word, other, strict=True))


def ladder_neighbours(words: Sequence[str], word: str) -> list[str]:
    """Words one letter away."""
    return [other for other in words if num_changes(word, other) == 1]


@dataclass(frozen=True, slots=True)
class LetterLadder:
    """From one code word to another, one letter at a time, through a list of code words."""

    name: str = "letter_ladder"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Longer words, longer lists, longer ladders."""
        length, count, least, num_letters = (
            (3, 12, 3, 3),
            (4, 18, 4, 4),
            (4, 28, 6, 4),
            (5, 40, 7, 4),
            (6, 60, 9, 4),
        )[level - 1]
        letters = chance.sample("abcdefghijklmnoprstuvw", num_letters)
        while True:
            words = ["".join(chance.choice(letters) for _ in range(length))]
            while len(words) < count:
                word = list(chance.choice(words[-6:]))
                word[chance.randrange(length)] = chance.choice(letters)
                if "".join(word) not in words:
                    words.append("".join(word))
            before = distances(words[0], lambda word, words=words: ladder_neighbours(words, word))  # type: ignore[misc]
            ladder = way_to(list(before)[-1], before)
            if len(ladder) > least:
                break
        listed = chance.sample(words, count)
        prompt = (
            f"Code words: {', '.join(listed)}. A ladder goes from one code word to another; each step "
            "changes exactly one letter in its place, and every word on the way is in the list. Find a "
            f"shortest ladder from {ladder[0]} to {ladder[-1]}. Write all its words from the first to the "
            "last inside \\boxed{}, joined by '->', for example \\boxed{aab->abb->abc}."
        )
        return Puzzle(prompt=prompt, spec={"words": listed, "ladder": "->".join(ladder)})

    def solve(self, spec: Spec) -> str:
        """Breadth first."""
        words, made = texts(spec, "words"), text(spec, "ladder").split("->")
        before = distances(made[0], lambda word: ladder_neighbours(words, word))
        return "->".join(way_to(made[-1], before))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Both ends, listed words, one letter a step, and no ladder is shorter."""
        made, words = text(spec, "ladder").split("->"), frozenset(texts(spec, "words"))
        path = read_path(answer)
        if path is None or len(path) != len(made) or (path[0], path[-1]) != (made[0], made[-1]):
            return False
        return words.issuperset(path) and all(num_changes(a, b) == 1 for a, b in pairwise(path))


ROUTE_TASKS: tuple[LogicTask, ...] = (MazeShortest(), KnightMoves(), LetterLadder())
