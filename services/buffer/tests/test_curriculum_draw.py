"""Draws of the curriculum: shares within three deviations, levels, synthetic prompts, nothing starves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from forklight_buffer.curriculum.difficulty import UNIT
from forklight_buffer.curriculum.levels import Ladder
from forklight_buffer.curriculum.schedule import Moment
from forklight_buffer.curriculum.state import CurriculumState
from forklight_buffer.prompts import read_prompts
from forklight_buffer.records import Evidence
from forklight_core.errors import ConfigError, InvalidInputError
from forklight_core.runfile import load_run_file
from forklight_core.runfile.sections.curriculum import LevelsSection
from services.buffer.tests.curriculum_world import (
    START,
    assert_near,
    assert_shares,
    book_of,
    domain_rows,
    draw_free,
    page_of,
    run_file_of,
)

DRAWS = 3000
MIX = [*domain_rows("math", 30), *domain_rows("code", 300), *domain_rows("general", 90)]
RULES_FIRST = {
    "math": {"weight": 3.0},
    "code": {"weight": 1.0, "by_window": [[20, 3.0]]},
    "general": {"weight": 4.0, "by_step": [[100, 0.0], [200, 1.0]]},
}


@pytest.mark.parametrize(
    ("moment", "shares"),
    [
        (Moment(step=0, window=10), {"math": 0.75, "code": 0.25, "general": 0.0}),
        (Moment(step=100, window=10), {"math": 0.75, "code": 0.25, "general": 0.0}),
        (Moment(step=150, window=10), {"math": 0.5, "code": 1 / 6, "general": 1 / 3}),
        (Moment(step=900, window=10), {"math": 0.375, "code": 0.125, "general": 0.5}),
        (Moment(step=900, window=40), {"math": 0.3, "code": 0.3, "general": 0.4}),
    ],
)
def test_domains_are_drawn_by_the_weights_of_step_and_window(
    tmp_path: Path, moment: Moment, shares: dict[str, float]
) -> None:
    book = book_of(tmp_path, MIX)
    state = CurriculumState(book, run_file_of(domains=RULES_FIRST))
    assert_shares(draw_free(state, book, DRAWS, moment), shares)


def test_without_weights_a_domain_is_drawn_as_often_as_it_has_prompts(tmp_path: Path) -> None:
    book = book_of(tmp_path, MIX)
    names = draw_free(CurriculumState(book, run_file_of()), book, DRAWS)
    assert_shares(names, {"math": 30 / 420, "code": 300 / 420, "general": 90 / 420})


def test_draws_hang_on_the_seed_and_the_position_alone(tmp_path: Path) -> None:
    book = book_of(tmp_path, MIX)
    names = [draw_free(CurriculumState(book, run_file_of()), book, 50) for _ in range(2)]
    assert names[0] == names[1]
    other = run_file_of().model_copy(update={"run": run_file_of().run.model_copy(update={"seed": 8})})
    assert draw_free(CurriculumState(book, other), book, 50) != names[0]


def test_prompts_are_drawn_in_proportion_to_what_they_teach_and_none_is_dead(tmp_path: Path) -> None:
    book = book_of(tmp_path, domain_rows("math", 4))
    state = CurriculumState(book, run_file_of())
    passed = {"math-0": 8.0, "math-1": 2.0, "math-2": 16.0}  # of 16; nothing is known of math-3
    rows = [Evidence(number, name, 16, right, 0) for number, (name, right) in enumerate(passed.items(), 1)]
    state.learn(page_of(rows))
    posteriors = {"math-0": (9, 9), "math-1": (3, 15), "math-2": (17, 1), "math-3": (1, 1)}
    weights = {name: 0.1 + 0.9 * 4 * a * b / ((a + b) * (a + b + 1)) for name, (a, b) in posteriors.items()}
    for name, weight in weights.items():
        place = book.place_of(name)
        assert place is not None
        assert state.difficulty.posterior(place) == posteriors[name]
        assert state.difficulty.weight(place) == round(weight * UNIT)
    counts = Counter(draw_free(state, book, DRAWS))
    for name, weight in weights.items():
        assert_near(counts[name], DRAWS, weight / sum(weights.values()))


def test_old_evidence_fades_and_a_prompt_that_was_never_solved_is_still_drawn(tmp_path: Path) -> None:
    book = book_of(tmp_path, domain_rows("math", 2))
    state = CurriculumState(book, run_file_of(difficulty={"decay": 0.5}))
    state.learn(page_of([Evidence(1, "math-0", 16, 0.0, 0), Evidence(2, "math-0", 16, 16.0, 0)]))
    place = book.place_of("math-0")
    assert place is not None
    assert state.difficulty.posterior(place) == (17.0, 9.0)
    state.learn(page_of([Evidence(3 + n, "math-0", 16, 0.0, 0) for n in range(99)]))
    assert 0.1 * UNIT <= state.difficulty.weight(place) < 0.25 * UNIT
    assert "math-0" in draw_free(state, book, 200)


def test_infrastructure_tells_nothing_of_a_prompt(tmp_path: Path) -> None:
    book = book_of(tmp_path, domain_rows("math", 2))
    state = CurriculumState(book, run_file_of())
    before = draw_free(state, book, 40)
    state.learn(page_of([Evidence(1, "math-0", 0, 0.0, 0), Evidence(2, "gone", 16, 3.0, 0)]))
    assert state.difficulty.posterior(0) == (1.0, 1.0) and draw_free(state, book, 40) == before


def test_an_open_prompt_is_drawn_again_only_when_all_are_open(tmp_path: Path) -> None:
    book = book_of(tmp_path, domain_rows("math", 9))
    state = CurriculumState(book, run_file_of())
    assert len({state.draw(position, START) for position in range(9)}) == 9
    assert len({state.draw(position, START) for position in range(9, 200)}) == 9
    state.set_open({f"math-{number}": 1 for number in range(8)})
    assert state.draw(7, START) == 8


def test_a_domain_that_is_used_up_or_empty_gives_its_share_away_and_says_so(tmp_path: Path) -> None:
    book = book_of(tmp_path, [*domain_rows("math", 2), *domain_rows("code", 50), *domain_rows("stem", 50)])
    weights = {name: {"weight": 1.0} for name in ("math", "code", "stem", "swe")}
    state = CurriculumState(book, run_file_of(domains=weights))
    assert state.wanting(START) == {"swe": "prompts.train has no prompt of it"}
    assert_shares(draw_free(state, book, 900), {"math": 1 / 3, "code": 1 / 3, "stem": 1 / 3})
    state.set_open({"math-0": 1, "math-1": 3})
    assert "each of its 2 prompts has an open group" in state.wanting(START)["math"]
    shares = state.shares(START)
    assert shares == {("code", False): 0.5, ("stem", False): 0.5}
    state.set_open({"math-1": 2})
    assert ("math", False) in state.shares(START)


def test_a_moment_at_which_no_domain_has_a_weight_draws_from_those_that_ever_have(tmp_path: Path) -> None:
    book = book_of(tmp_path, MIX)
    late = {"weight": 1.0, "by_step": [[5, 0.0], [6, 1.0]]}
    state = CurriculumState(book, run_file_of(domains={"math": late, "code": late, "general": {"weight": 0}}))
    assert_shares(draw_free(state, book, 900), {"math": 30 / 330, "code": 300 / 330, "general": 0.0})


def test_prompts_of_a_domain_without_a_weight_are_refused(tmp_path: Path) -> None:
    book = book_of(tmp_path, MIX)
    with pytest.raises(ConfigError, match="300 prompts of domain 'code'.* 0 leaves it out"):
        CurriculumState(book, run_file_of(domains={"math": {}, "general": {}}))
    none = {name: {"weight": 0.0} for name in ("math", "code", "general")} | {"swe": {}}
    with pytest.raises(ConfigError, match="nothing could be drawn"):
        CurriculumState(book, run_file_of(domains=none))


LADDER = [row for level in (1, 2, 4) for row in domain_rows("logic", 5, source="sudoku", level=level)]


def finish(state: CurriculumState, level: int, rate: float, count: int) -> None:
    start = state.last_number
    rows = [
        Evidence(start + n, f"logic-sudoku-{level}-{n % 5}", 16, 16 * rate, 3) for n in range(1, count + 1)
    ]
    state.learn(page_of(rows, step=3))


def levels_drawn(state: CurriculumState, count: int = 200) -> set[int]:
    names = {state.pool.key_of(state.draw(position, START)).level for position in range(count)}
    state.set_open({})
    return {level for level in names if level is not None}


def test_a_task_rises_when_it_is_passed_and_falls_when_it_is_not(tmp_path: Path) -> None:
    state = CurriculumState(book_of(tmp_path, LADDER), run_file_of(levels={"min_groups": 10}))
    assert levels_drawn(state) == {1}
    finish(state, 1, 0.6, 9)
    assert levels_drawn(state) == {1}  # too early
    finish(state, 1, 0.6, 1)
    assert levels_drawn(state) == {1, 2}
    finish(state, 1, 1.0, 50)  # of a level that it has left
    finish(state, 2, 0.3, 60)  # neither
    assert levels_drawn(state) == {1, 2}
    finish(state, 2, 0.9, 30)
    assert levels_drawn(state) == {2, 4}
    finish(state, 4, 1.0, 30)  # there is no higher one
    finish(state, 4, 0.0, 40)
    assert levels_drawn(state) == {1, 2}
    assert [(change.before, change.after) for change in state.changes] == [(1, 2), (2, 4), (4, 2)]
    rise = state.changes[0]
    assert (rise.task, rise.num_groups, rise.number, rise.step) == ("sudoku", 10, 10, 3)
    assert rise.average == pytest.approx(0.6)


@pytest.mark.parametrize(("start", "level"), [(0, 1), (1, 1), (3, 2), (4, 4), (9, 4)])
def test_a_task_starts_at_its_nearest_level(start: int, level: int) -> None:
    assert Ladder("sudoku", {4, 1, 2}, LevelsSection(start=start)).level == level


def test_rows_of_puzzles_have_the_level_of_their_specification(tmp_path: Path) -> None:
    path = tmp_path / "logic.jsonl"
    row = {
        "id": "a",
        "prompt": "?",
        "kind": "logic",
        "gold": "",
        "spec": {"task": "t", "level": 3, "seed": 1},
    }
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "b", "level": 5, "domain": "d"}))
    first, second = read_prompts(path, seed=0, shuffle=False).prompts
    assert (first.traits.domain, first.traits.task, first.traits.level) == ("logic", "t", 3)
    assert (second.traits.domain, second.traits.task, second.traits.level) == ("d", "t", 5)


@pytest.mark.parametrize(
    ("key", "value"), [("level", -1), ("level", "3"), ("synthetic", "yes"), ("domain", " "), ("source", 3)]
)
def test_a_row_that_says_it_wrongly_is_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=rf"train\.jsonl:1: {key} is"):
        book_of(tmp_path, [{"id": "a", key: value}])


SYNTHETIC = [
    *domain_rows("math", 60, synthetic=False),
    *domain_rows("math", 60, synthetic=True),
    *domain_rows("logic", 60, source="made-by-rules"),
    *domain_rows("code", 60),
]


def test_the_share_of_synthetic_prompts_halves_at_the_largest_window(tmp_path: Path) -> None:
    book = book_of(tmp_path, SYNTHETIC)
    weights = {"math": {"weight": 2.0}, "logic": {"weight": 1.0}, "code": {"weight": 1.0}}
    run_file = run_file_of(domains=weights, synthetic={"sources": ["made-*"]})
    state = CurriculumState(book, run_file)
    for window, share in ((10, 0.5), (20, 0.5), (40, 0.25)):
        names = draw_free(state, book, DRAWS, Moment(step=0, window=window))
        made = [name for name in names if "True" in name or "made" in name]
        assert_near(len(made), DRAWS, share)
    # logic is all synthetic: what is cut of it goes to math and code alike, and math keeps its two thirds
    assert_shares(names, {"math": 2 / 3 * 0.875, "code": 1 / 3 * 0.875, "logic": 0.125})


def test_the_window_from_which_synthetic_prompts_are_cut_can_be_said(tmp_path: Path) -> None:
    book = book_of(tmp_path, SYNTHETIC)
    for section, windows, share in (
        ({"from_window": 20, "factor": 0.0}, (10, 20, 40), 0.0),
        ({}, (40,), 0.25),  # one window: there is no stage to cut at
    ):
        state = CurriculumState(book, run_file_of(windows=windows, synthetic=section))
        shares = state.shares(Moment(step=0, window=windows[-1]))
        assert sum(part for (_, made), part in shares.items() if made) == pytest.approx(share)
    only = book_of(tmp_path, domain_rows("math", 5, synthetic=True))
    state = CurriculumState(only, run_file_of())
    assert state.shares(Moment(step=0, window=40)) == {("math", True): 1.0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[curriculum]\nweight = 1", "unknown key curriculum.weight"),
        ("[curriculum.domains.math]\nweight = -1", "curriculum.domains.math.weight"),
        ("[curriculum.domains.math]\nby_step = [[5, 1.0], [5, 2.0]]", "must rise"),
        ('[curriculum.domains.""]\nweight = 1', "curriculum.domains"),
        ("[curriculum.domains.math]\nweight = 0", "every weight of curriculum.domains is 0"),
        ("[curriculum.levels]\nlower_below = 0.5", "would rise and fall"),
        ('[curriculum.synthetic]\nfrom_window = "80Ki"', "names a window of 81920 tokens"),
        ('[curriculum.domains.math]\nby_window = [["80Ki", 0.5]]', "domains.math.by_window names a window"),
    ],
)
def test_a_curriculum_that_cannot_work_is_refused_by_key(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=problem):
        load_run_file(path)
