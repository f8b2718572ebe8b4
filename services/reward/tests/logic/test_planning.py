"""Moves, times and graphs: properties with checkers of their own, dates against the standard library."""

from __future__ import annotations

import random
import re
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest

from forklight_reward.logic.graphs import GRAPH_TASKS
from forklight_reward.logic.planning import PLANNING_TASKS, plan_tower
from forklight_reward.logic.task import LEVELS
from forklight_reward.logic.times import TIME_TASKS, Calendar
from services.reward.tests.logic.properties import Case, StillRight, cases, check_all, check_wrong

TASKS = {task.name: task for task in (*PLANNING_TASKS, *TIME_TASKS, *GRAPH_TASKS)}


def moves_of(answer: str) -> list[list[str]]:
    """Moves, or one that nothing can do."""
    parts = [[place.strip() for place in part.split("->")] for part in answer.split(",")]
    return parts if all(len(part) == 2 and all(part) for part in parts) else [["?", "?"]]


def builds_tower(spec: Any, answer: str) -> bool:
    """With stacks of discs."""
    stacks: dict[str, list[int]] = {name: [] for name in "ABC"}
    for disc in reversed(range(len(spec["pegs"]))):
        stacks["ABC"[spec["pegs"][disc]]].append(disc)
    moves = moves_of(answer)
    for start, end in moves:
        if start not in stacks or end not in stacks or not stacks[start]:
            return False
        disc = stacks[start].pop()
        if start == end or (stacks[end] and stacks[end][-1] < disc):
            return False
        stacks[end].append(disc)
    return len(stacks["ABC"[spec["goal"]]]) == len(spec["pegs"]) and len(moves) <= spec["most"]


def builds_stacks(spec: Any, answer: str) -> bool:
    """With lists of blocks."""
    stacks = [list(stack) for stack in spec["start"]]
    moves = moves_of(answer)
    for block, where in moves:
        source = next((stack for stack in stacks if stack and stack[-1] == block), None)
        target = next((stack for stack in stacks if stack and stack[-1] == where), None)
        if source is None or (where == "table" and len(source) == 1):
            return False
        if where == "table":
            target = []
            stacks.append(target)
        if target is None or target is source:
            return False
        target.append(source.pop())
    return (
        sorted("".join(stack) for stack in stacks if stack) == sorted(spec["end"])
        and len(moves) <= spec["most"]
    )


def keeps_times(spec: Any, answer: str) -> bool:
    """Minute by minute."""
    found = [re.fullmatch(r"\s*([A-K])\s+(\d\d?):(\d\d)\s*", part) for part in answer.split(",")]
    starts = {part[1]: int(part[2]) * 60 + int(part[3]) for part in found if part}
    if len(found) != len(starts) or sorted(starts) != list("ABCDEFGHIJK"[: len(spec["lengths"])]):
        return False
    taken = {
        (name, minute)
        for name, start, end in spec["busy"]
        for minute in range(15 * int(start), 15 * int(end))
    }
    ends = {}
    for name, length, guests in zip(sorted(starts), spec["lengths"], spec["guests"], strict=True):
        ends[name] = starts[name] + 15 * length
        if starts[name] % 15 or starts[name] < 540 or ends[name] > 1020:
            return False
        wanted = {(guest, minute) for guest in guests for minute in range(starts[name], ends[name])}
        if wanted & taken:
            return False
        taken |= wanted
    names = sorted(starts)
    return all(ends[names[one]] <= starts[names[two]] for one, two in spec["order"])


def colours_well(spec: Any, answer: str) -> bool:
    """Every edge looked at."""
    given = [colour.strip() for colour in answer.split(",")]
    known = len(given) == len(spec["colours"]) and all(colour in ("red", "green", "blue") for colour in given)
    return known and not any(given[one - 1] == given[two - 1] for one, two in spec["edges"])


def is_shortest(spec: Any, answer: str) -> bool:
    """Against distances found by relaxing every edge often enough."""
    far = {spec["start"]: 0}
    for _ in range(30):
        for one, two, weight in spec["edges"]:
            if one in far:
                far[two] = min(far.get(two, 10**9), far[one] + weight)
    way = answer.strip().split("->")
    weights = {(str(one), str(two)): weight for one, two, weight in spec["edges"]}
    if way[0] != str(spec["start"]) or way[-1] != str(spec["goal"]):
        return False
    steps = list(pairwise(way))
    return (
        all(step in weights for step in steps) and sum(weights[step] for step in steps) == far[spec["goal"]]
    )


ORACLES: dict[str, StillRight] = {
    "towers_of_hanoi": builds_tower,
    "block_stacking": builds_stacks,
    "time_scheduling": keeps_times,
    "graph_coloring": colours_well,
    "shortest_weighted_path": is_shortest,
}


@pytest.mark.parametrize("case", cases(TASKS.values(), seeds=(0,)), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    oracle = ORACLES.get(case.task.name)
    assert oracle is None or oracle(case.puzzle.spec, case.solution)
    check_all(case, oracle)
    check_wrong(case, [case.solution + ", A->A", case.solution.split(",")[0] + ",", f"[{case.solution}]"])


def change_one(answer: str, chance: random.Random) -> str:
    """A part left out, doubled, moved, or made to be another thing that could stand there."""
    sign = ", " if ", " in answer else "->"
    parts = answer.split(sign)
    place, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    match chance.randrange(5):
        case 0:
            del parts[place]
        case 1:
            parts.insert(place, parts[other])
        case 2:
            parts.insert(place, parts.pop(other))
        case _ if ":" in answer:
            parts[place] = (
                f"{parts[place][0]} {chance.randrange(8, 18)}:{chance.choice(['00', '15', '30', '45'])}"
            )
        case _ if sign == "->":
            parts[place] = str(chance.randrange(1, 10))
        case _:
            known = sorted(set(answer.replace("->", ", ").split(", ")))
            parts[place] = "->".join(chance.choice(known) for _ in parts[place].split("->"))
    return sign.join(parts)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_verifiers_agree_with_checkers_of_another_hand(name: str) -> None:
    chance, said = random.Random(name), []
    for level in LEVELS:
        case = Case(TASKS[name], level, 6)
        answers = [case.solution]
        for _ in range(150):
            answers.append(change_one(chance.choice(answers[-20:]), chance))
            right = case.task.verify(case.puzzle.spec, answers[-1])
            assert right == ORACLES[name](case.puzzle.spec, answers[-1]), (case.puzzle.prompt, answers[-1])
            if not right:
                answers.pop()
            said.append(right)
    assert said.count(True) > 2
    assert said.count(False) > 100


def test_every_edge_counts_in_a_colouring() -> None:
    case = Case(TASKS["graph_coloring"], 2, 1)
    spec: Any = case.puzzle.spec
    for one, two in spec["edges"]:
        colours = case.solution.split(", ")
        colours[one - 1] = colours[two - 1]
        assert not case.task.verify({**spec, "edges": [[one, two]]}, ", ".join(colours))


def test_a_way_of_the_right_length_must_lead_to_the_goal() -> None:
    task = TASKS["shortest_weighted_path"]
    spec: Any = {"edges": [[1, 2, 5], [1, 3, 5], [2, 3, 0]], "start": 1, "goal": 3, "least": 5}
    answers = ("1->3", "1->2->3", "1->2", "1", "3->1", "2->3", "1->1->3")
    assert [task.verify(spec, answer) for answer in answers] == [True, True, *[False] * 5]


def test_shortest_towers_are_as_long_as_known() -> None:
    assert [len(plan_tower([0] * discs, 2)) for discs in range(1, 8)] == [1, 3, 7, 15, 31, 63, 127]
    assert plan_tower([2, 2], 2) == []


def test_a_longer_way_is_right_while_the_bound_holds() -> None:
    case = Case(TASKS["towers_of_hanoi"], 1, 0)
    first, *rest = case.solution.split(", ")
    start, end = first.split("->")
    third = next(name for name in "ABC" if name not in (start, end))
    detour = ", ".join([f"{start}->{third}", f"{third}->{end}", *rest])
    assert case.task.verify(case.puzzle.spec, detour)
    there_and_back = [f"{start}->{third}", f"{third}->{start}"]
    assert not case.task.verify(case.puzzle.spec, ", ".join([*there_and_back * 3, first, *rest]))


@pytest.mark.parametrize("level", (1, 2))
@pytest.mark.parametrize("seed", range(8))
def test_gregorian_dates_agree_with_the_standard_library(level: int, seed: int) -> None:
    case = Case(TASKS["calendar_arithmetic"], level, seed)
    found = re.search(
        r"that (\d+)/(\d+)/(\d+) .* is a (\w+), .* is (\d+) days (after|before)", case.puzzle.prompt
    )
    assert found is not None
    start = date(int(found[3]), int(found[2]), int(found[1]))
    moved = timedelta(days=int(found[5]) * (1 if found[6] == "after" else -1))
    there = start + moved
    names = [(date(2024, 1, 1) + timedelta(days=day)).strftime("%A") for day in range(7)]
    weekday = names[(names.index(found[4]) + moved.days) % 7]
    assert case.solution == f"{there.day}/{there.month}/{there.year}, {weekday}"


def test_invented_calendars_count_every_day() -> None:
    calendar = Calendar(lengths=(3, 2), weekdays=("A", "B"), leap_month=2, every=(3, 30, 120))
    assert [calendar.month_length(2, year) for year in (2, 3, 30, 60, 120)] == [2, 3, 2, 2, 3]
    days = [
        (1, 1, 2),
        (2, 1, 2),
        (3, 1, 2),
        (1, 2, 2),
        (2, 2, 2),
        (1, 1, 3),
        (2, 1, 3),
        (3, 1, 3),
        (1, 2, 3),
        (2, 2, 3),
    ]
    days += [(3, 2, 3), (1, 1, 4)]
    for num_days, expected in enumerate(days):
        assert calendar.add(days[0], num_days) == expected
        assert calendar.add(expected, -num_days) == days[0]


@pytest.mark.parametrize("level", LEVELS)
def test_things_follow_from_the_prompt(level: int) -> None:
    case = Case(TASKS["object_tracking"], level, 4)
    first = re.search(r"one thing: (.*)\. Then", case.puzzle.prompt)
    assert first is not None
    has = {name: thing for name, _, thing in (part.split() for part in first[1].split(", "))}
    for line in re.findall(r"^\d+\. (.*)$", case.puzzle.prompt, flags=re.M):
        if found := re.match(r"(\w+) and (\w+) swap", line):
            pair = {found[1]: has[found[2]], found[2]: has[found[1]]}
        elif found := re.match(r"Whoever has the (\w+) swaps with (\w+)", line):
            owner = {thing: name for name, thing in has.items()}[found[1]]
            pair = {owner: has[found[2]], found[2]: found[1]}
        else:
            gifts = re.findall(r"(\w+) (?:gives )?to (\w+)", line)
            assert len(gifts) == 3
            pair = {taker: has[giver] for giver, taker in gifts}
        has |= pair
    assert ", ".join(has.values()) == case.solution
