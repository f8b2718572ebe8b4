"""Shortest ways: properties, other shortest ways, and wrong ways by hand."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest

from forklight_reward.logic.routes import ROUTE_TASKS, KnightMoves, LetterLadder, MazeShortest
from forklight_reward.logic.task import Spec
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong

KNIGHT = {1, 2}


def is_step(spec: Spec, here: str, there: str) -> bool:
    """One step, by other code than the tasks'."""
    if "words" in spec:
        return there in spec["words"] and sum(a != b for a, b in zip(here, there, strict=True)) == 1  # type: ignore[operator]
    across, up = abs(ord(here[0]) - ord(there[0])), abs(int(here[1:]) - int(there[1:]))
    return {across, up} == KNIGHT and there not in spec["blocked"]  # type: ignore[operator]


def nodes_of(spec: Spec) -> list[str]:
    """All places."""
    if "words" in spec:
        return list(spec["words"])  # type: ignore[arg-type]
    size = spec["size"]
    assert isinstance(size, int)
    return [f"{file}{rank}" for file in "abcdefghij"[:size] for rank in range(1, size + 1)]


def num_least(spec: Spec, start: str, goal: str) -> int:
    """Length of a shortest way, layer by layer."""
    layers, queue = {start: 0}, deque([start])
    while goal not in layers:
        here = queue.popleft()
        for there in nodes_of(spec):
            if there not in layers and is_step(spec, here, there):
                layers[there] = layers[here] + 1
                queue.append(there)
    return layers[goal]


def obeys(spec: Spec, answer: str) -> bool:
    """Another checker for mutated ways; a maze's own way is walked by complex numbers."""
    if "rows" in spec:
        rows = [str(row) for row in spec["rows"]]  # type: ignore[union-attr]
        marks = {complex(c, r): mark for r, row in enumerate(rows) for c, mark in enumerate(row)}
        place = next(at for at, mark in marks.items() if mark == "S")
        for letter in answer.strip():
            place += {"U": -1j, "D": 1j, "L": -1, "R": 1}.get(letter, 1000)
            if marks.get(place, "#") == "#":
                return False
        return marks[place] == "G" and len(answer.strip()) == spec["num_steps"]
    path = [part.strip() for part in answer.split("->")]
    known = nodes_of(spec)
    if any(part not in known for part in path):
        return False
    ends = spec["ends"] if "ends" in spec else [str(spec["ladder"]).split("->")[place] for place in (0, -1)]
    steps = all(is_step(spec, here, there) for here, there in pairwise(path))
    return [path[0], path[-1]] == ends and steps and len(path) - 1 == num_least(spec, path[0], path[-1])


@pytest.mark.parametrize("case", cases(ROUTE_TASKS), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    check_all(case, obeys)
    assert obeys(case.puzzle.spec, case.solution)
    if "rows" in case.puzzle.spec:
        detour = case.solution + {"U": "DU", "D": "UD", "L": "RL", "R": "LR"}[case.solution[-1]]
        wrong = [
            detour,
            case.solution.lower(),
            str(len(case.solution)),
            ",".join(case.solution),
            "U" * len(case.solution),
        ]
    else:
        path = case.solution.split("->")
        wrong = [
            "->".join(path[:1] + path),
            "->".join(path[::-1]),
            "->".join([path[0], path[-1]]),
            ",".join(path),
        ]
        wrong += ["->".join([path[0], path[1], path[0], *path[1:]]), case.solution + "->", str(len(path) - 1)]
    check_wrong(case, wrong)


def test_maze_accepts_every_shortest_way_and_no_wall() -> None:
    spec = {"rows": ["#####", "#S..#", "#.#.#", "#..G#", "#####"], "num_steps": 4}
    maze = MazeShortest()
    assert [maze.verify(spec, way) for way in ("RRDD", "DDRR", "RDRD", "RRD", "URRDD", "DDRRRL")] == [
        True,
        True,
    ] + [False] * 4


def test_ladder_and_knight_accept_another_shortest_way() -> None:
    ladder = {"words": ["aa", "ab", "ba", "bb"], "ladder": "aa->ab->bb"}
    assert LetterLadder().verify(ladder, "aa->ba->bb") and not LetterLadder().verify(ladder, "aa->bb")
    knight = {"size": 5, "blocked": ["a2"], "ends": ["a1", "d5"], "num_moves": 3}
    ways = ("a1->b3->d5", "a1->c2->b4->d5", "a1->b3->c5->d5", "a1->b3->a5->d5")
    assert [KnightMoves().verify(knight, way) for way in ways] == [False, True, False, False]
