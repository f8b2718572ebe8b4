"""Sequences of moves that reach a goal, any within a bound: sliding tiles and river crossings."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from forklight_reward.logic.boards import flat, rows_of
from forklight_reward.logic.fields import text_rows, texts, whole, whole_rows
from forklight_reward.logic.reading import read_integers, read_rows
from forklight_reward.logic.task import LogicTask, Puzzle, Spec

Tiles = tuple[int, ...]


def blank_sides(tiles: Tiles, num_columns: int) -> list[int]:
    """Places next to the empty one."""
    blank = tiles.index(0)
    row, column = divmod(blank, num_columns)
    sides = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    num_rows = len(tiles) // num_columns
    return [r * num_columns + c for r, c in sides if 0 <= r < num_rows and 0 <= c < num_columns]


def slide(tiles: Tiles, place: int) -> Tiles:
    """Exchange the tile at a place with the empty one."""
    moved = list(tiles)
    blank = tiles.index(0)
    moved[blank], moved[place] = moved[place], 0
    return tuple(moved)


def goal_of(count: int) -> Tiles:
    """1, 2, ... and the empty place last."""
    return (*range(1, count), 0)


def total_distance(tiles: Tiles, num_columns: int) -> int:
    """Steps that each tile needs alone."""
    total = 0
    for place, tile in enumerate(tiles):
        if tile:
            row, column = divmod(place, num_columns)
            goal_row, goal_column = divmod(tile - 1, num_columns)
            total += abs(row - goal_row) + abs(column - goal_column)
    return total


def solve_tiles(start: Tiles, num_columns: int, most_nodes: int) -> list[int] | None:
    """A shortest sequence of tiles by A*; None when the work runs out."""
    goal = goal_of(len(start))
    before: dict[Tiles, tuple[int, Tiles | None]] = {start: (0, None)}
    queue = [(total_distance(start, num_columns), 0, start)]
    while queue and len(before) < most_nodes:
        _, negative_steps, tiles = heapq.heappop(queue)
        if tiles == goal:
            return tiles_moved(tiles, before)
        steps = 1 - negative_steps
        for place in blank_sides(tiles, num_columns):
            other = slide(tiles, place)
            if other not in before or steps < before[other][0]:
                before[other] = (steps, tiles)
                heapq.heappush(queue, (steps + total_distance(other, num_columns), -steps, other))
    return None


def tiles_moved(tiles: Tiles, before: dict[Tiles, tuple[int, Tiles | None]]) -> list[int]:
    """Which tile moved in each step from the start."""
    moved = []
    while (previous := before[tiles][1]) is not None:
        moved.append(tiles[previous.index(0)])
        tiles = previous
    return moved[::-1]


@dataclass(frozen=True, slots=True)
class SlidingTiles:
    """Order the tiles within a bound of moves."""

    name: str = "sliding_tiles"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """More random moves away from the goal, larger boards; the bound gets closer to the shortest."""
        num_rows, num_columns, num_moves, least, spare = (
            (2, 3, 14, 4, 20), (3, 3, 12, 8, 20), (3, 3, 20, 12, 14), (3, 3, 36, 18, 8), (3, 4, 32, 20, 6)
        )[level - 1]  # fmt: skip
        goal = goal_of(num_rows * num_columns)
        shortest = None
        while shortest is None or len(shortest) < least:
            tiles, previous = goal, goal
            for _ in range(num_moves):
                around = [slide(tiles, place) for place in blank_sides(tiles, num_columns)]
                tiles, previous = chance.choice([each for each in around if each != previous]), tiles
            shortest = solve_tiles(tiles, num_columns, 6000)
        most = len(shortest) + spare
        board = rows_of(tiles, num_columns)
        shown, wanted = (
            "\n".join(" ".join(f"{tile:2}" if tile else " _" for tile in row) for row in rows)
            for rows in (board, rows_of(goal, num_columns))
        )
        prompt = (
            f"Sliding tiles, '_' is the empty place:\n{shown}\nA move slides a tile that is above, below, "
            f"left or right of the empty place into it. Reach this board in at most {most} "
            f"moves:\n{wanted}\nWrite the numbers of the moved tiles in their order inside \\boxed{{}}, "
            "separated by commas, for example \\boxed{5,2,3}."
        )
        return Puzzle(prompt=prompt, spec={"board": board, "most_moves": most})

    def solve(self, spec: Spec) -> str:
        """A*."""
        board = whole_rows(spec, "board")
        moved = solve_tiles(tuple(flat(board)), len(board[0]), 100_000)
        return ",".join(map(str, moved or ()))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Make the moves."""
        board = whole_rows(spec, "board")
        moved = read_integers(answer)
        if moved is None or len(moved) > whole(spec, "most_moves"):
            return False
        tiles = tuple(flat(board))
        for tile in moved:
            place = next((place for place in blank_sides(tiles, len(board[0])) if tiles[place] == tile), None)
            if place is None:
                return False
            tiles = slide(tiles, place)
        return tiles == goal_of(len(tiles))


NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Shores = tuple[frozenset[str], bool]
"""Who is on the near shore, and whether the boat is there."""


def is_safe(shore: frozenset[str], conflicts: Sequence[Sequence[str]]) -> bool:
    """Whether nobody is hurt on a shore without the ferryman."""
    return not any(first in shore and second in shore for first, second in conflicts)


def cross(shores: Shores, load: Sequence[str], everyone: frozenset[str]) -> Shores | None:
    """The shores after a crossing; None when the load is not where the boat is."""
    near, boat_near = shores
    side = near if boat_near else everyone - near
    if not side.issuperset(load):
        return None
    return (near.difference(load) if boat_near else near.union(load)), not boat_near


def left_alone(shores: Shores, everyone: frozenset[str]) -> frozenset[str]:
    """The shore without the boat."""
    near, boat_near = shores
    return everyone - near if boat_near else near


def crossings(shores: Shores, everyone: frozenset[str], seats: int) -> Iterator[tuple[str, ...]]:
    """All loads that the boat can take."""
    near, boat_near = shores
    side = sorted(near if boat_near else everyone - near)
    for count in range(seats + 1):
        yield from combinations(side, count)


def solve_crossing(
    names: Sequence[str], conflicts: Sequence[Sequence[str]], seats: int
) -> list[tuple[str, ...]] | None:
    """A shortest sequence of loads, breadth first."""
    everyone = frozenset(names)
    start: Shores = (everyone, True)
    ways: dict[Shores, list[tuple[str, ...]]] = {start: []}
    queue = deque([start])
    while queue:
        shores = queue.popleft()
        if shores == (frozenset(), False):
            return ways[shores]
        for load in crossings(shores, everyone, seats):
            after = cross(shores, load, everyone)
            if after is not None and after not in ways and is_safe(left_alone(after, everyone), conflicts):
                ways[after] = [*ways[shores], load]
                queue.append(after)
    return None


@dataclass(frozen=True, slots=True)
class RiverCrossing:
    """Wolf, goat and cabbage with other conflicts, more passengers and more seats."""

    name: str = "river_crossing"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """More passengers and conflicts, a longer shortest way, and less spare in the bound."""
        count, seats, num_conflicts, least, spare = (
            (3, 1, 2, 7, 8), (4, 2, 4, 5, 6), (5, 2, 5, 7, 6), (6, 2, 6, 9, 4), (7, 2, 6, 11, 2)
        )[level - 1]  # fmt: skip
        names = sorted(chance.sample(NAMES, count))
        pairs = list(combinations(names, 2))
        loads = None
        while loads is None or len(loads) < least:
            conflicts = sorted(chance.sample(pairs, num_conflicts))
            loads = solve_crossing(names, conflicts, seats)
        most = len(loads) + spare
        prompt = (
            f"A ferryman wants to bring the passengers {', '.join(names)} from the near shore to the far "
            f"shore. His boat takes himself and up to {seats} passenger(s); only he can row, and he may "
            "cross alone. Whenever he is not on a shore, none of these pairs may be there together: "
            f"{', '.join(f'{first} and {second}' for first, second in conflicts)}. He and the boat start on "
            f"the near shore; nobody swims. Bring all over in at most {most} crossings (each one way). Write "
            "for each crossing in its order the passengers in the boat, without anything between their "
            "letters, or - when he is alone. Put the crossings inside \\boxed{}, separated by ';', for "
            "example \\boxed{AB;-;C}."
        )
        spec: Spec = {
            "names": list(names),
            "conflicts": [list(pair) for pair in conflicts],
            "seats": seats,
            "most": most,
        }
        return Puzzle(prompt=prompt, spec=spec)

    def solve(self, spec: Spec) -> str:
        """Breadth first."""
        loads = solve_crossing(texts(spec, "names"), text_rows(spec, "conflicts"), whole(spec, "seats"))
        return ";".join("".join(load) or "-" for load in loads or ())

    def verify(self, spec: Spec, answer: str) -> bool:
        """Every crossing must be possible and safe, and all arrive."""
        num_crossings = answer.count(";") + 1
        written = read_rows(answer, num_crossings)
        if written is None or num_crossings > whole(spec, "most"):
            return False
        everyone, conflicts = frozenset(texts(spec, "names")), text_rows(spec, "conflicts")
        shores: Shores = (everyone, True)
        for text in written:
            load = "" if text == "-" else text
            after = (
                cross(shores, load, everyone) if len(set(load)) == len(load) <= whole(spec, "seats") else None
            )
            if after is None or not is_safe(left_alone(after, everyone), conflicts):
                return False
            shores = after
        return shores == (frozenset(), False)


MOVE_TASKS: tuple[LogicTask, ...] = (SlidingTiles(), RiverCrossing())
