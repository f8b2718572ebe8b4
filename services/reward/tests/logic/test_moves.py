"""Sliding tiles and river crossings: properties, other ways, and wrong ones by hand."""

from __future__ import annotations

import pytest

from forklight_reward.logic.moves import MOVE_TASKS, RiverCrossing, SlidingTiles, solve_crossing, solve_tiles
from forklight_reward.logic.task import Spec
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong

WOLF_GOAT_CABBAGE: Spec = {
    "names": ["A", "B", "C"],
    "conflicts": [["A", "B"], ["B", "C"]],
    "seats": 1,
    "most": 7,
}


def obeys(spec: Spec, answer: str) -> bool:
    """Plays the moves by other code than the tasks'."""
    if "board" not in spec:
        return crosses(spec, answer)
    words = [word.strip().lstrip("+") for word in answer.split(",")]
    if not all(word.isdigit() and len(word) < 20 for word in words) or len(words) > spec["most_moves"]:  # type: ignore[operator]
        return False
    board = {(r, c): tile for r, row in enumerate(spec["board"]) for c, tile in enumerate(row)}  # type: ignore
    for word in words:
        place = {tile: at for at, tile in board.items()}
        if int(word) not in place or int(word) == 0:
            return False
        (r, c), (s, d) = place[int(word)], place[0]
        if abs(r - s) + abs(c - d) != 1:
            return False
        board[r, c], board[s, d] = board[s, d], board[r, c]
    tiles = list(board.values())
    return tiles == [*range(1, len(tiles)), 0]


def crosses(spec: Spec, answer: str) -> bool:
    """The river, with a shore for each passenger."""
    loads = [part.strip() for part in answer.split(";")]
    shore, boat = dict.fromkeys(spec["names"], 0), 0  # type: ignore[arg-type]
    for load in loads:
        people = [] if load == "-" else list(load)
        if load == "" or len(people) > spec["seats"] or len(set(people)) < len(people):  # type: ignore[operator]
            return False
        if any(person not in shore or shore[person] != boat for person in people):
            return False
        boat = 1 - boat
        shore.update(dict.fromkeys(people, boat))
        if any(shore[a] == shore[b] != boat for a, b in spec["conflicts"]):  # type: ignore
            return False
    return set(shore.values()) == {1} and len(loads) <= spec["most"]  # type: ignore[operator]


@pytest.mark.parametrize("case", cases(MOVE_TASKS), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    check_all(case, obeys)
    assert obeys(case.puzzle.spec, case.solution)
    mark = "," if "board" in case.puzzle.spec else ";"
    moves = case.solution.split(mark)
    wrong = [mark.join(part) for part in (moves[:-1], moves[1:], moves[::2], moves * 40)]
    check_wrong(case, [*wrong, f"[{case.solution}]", case.solution + mark, case.solution.replace(mark, "->")])


def test_the_wolf_the_goat_and_the_cabbage_cross_in_seven() -> None:
    loads = solve_crossing("ABC", [["A", "B"], ["B", "C"]], 1)
    assert loads is not None and len(loads) == 7
    task = RiverCrossing()
    assert all(task.verify(WOLF_GOAT_CABBAGE, way) for way in ("B;-;A;B;C;-;B", "B; -; C; B; A; -; B"))
    wrong = (
        "B;-;A;-;C;-;B",
        "A;-;B;-;C",
        "B;-;A;B;C;-;B;-;-",
        "AB;-;C",
        "B;-;D;B;C;-;B",
        "B;;A;B;C;;B",
        "B;B;B",
    )
    assert not any(task.verify(WOLF_GOAT_CABBAGE, way) for way in wrong)


def test_a_crossing_without_a_way_has_none() -> None:
    assert solve_crossing("ABC", [["A", "B"], ["B", "C"], ["A", "C"]], 1) is None


def test_tiles_are_solved_in_the_fewest_moves() -> None:
    assert solve_tiles((1, 2, 3, 4, 5, 6, 7, 8, 0), 3, 10) == []
    assert solve_tiles((1, 2, 3, 4, 5, 6, 0, 7, 8), 3, 100) == [7, 8]
    assert len(solve_tiles((8, 6, 7, 2, 5, 4, 3, 0, 1), 3, 200_000) or []) == 31


def test_tiles_accept_a_longer_way_within_the_bound_only() -> None:
    spec: Spec = {"board": [[1, 2, 3], [4, 5, 6], [7, 0, 8]], "most_moves": 3}
    answers = ("8", "7,7,8", "7,7,7,7,8", "8,8", "0", "-8", "5,8", "")
    assert [SlidingTiles().verify(spec, answer) for answer in answers] == [True, True] + [False] * 6
