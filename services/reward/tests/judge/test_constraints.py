"""Demands on answers: exact, at their edges; what cannot be checked is refused."""

from __future__ import annotations

import json

import pytest

from forklight_core.errors import InvalidInputError
from forklight_reward.judge.constraints import read_constraints, unmet
from forklight_reward.judge.spec import parse_judge_spec


@pytest.mark.parametrize(
    ("demand", "met", "not_met"),
    [
        ({"rule": "words", "least": 2, "most": 3}, ["a b", "a\nb  c"], ["a", "a b c d", ""]),
        ({"rule": "characters", "most": 3}, ["", "abc"], ["abcd"]),
        ({"rule": "lines", "least": 2}, ["a\n\nb"], ["a", "a\n\n"]),
        (
            {"rule": "bullets", "least": 2, "most": 2},
            ["- a\n- b", "* a\n  + b", "1. a\n2) b"],
            ["- a", "-a\n-b", "a - b\n- c", "- a\n- b\n- c"],
        ),
        ({"rule": "contains", "text": "sea", "least": 2}, ["sea, sea"], ["sea", "Sea sea"]),
        ({"rule": "contains", "text": "Sea", "ignores_case": True}, ["the sea"], ["the lake"]),
        ({"rule": "lacks", "text": "however"}, ["However"], ["so however"]),
        ({"rule": "lacks", "text": "however", "ignores_case": True}, ["but"], ["However"]),
        ({"rule": "starts", "text": "Dear"}, ["Dear all"], ["dear all", "Oh Dear"]),
        ({"rule": "ends", "text": "."}, ["a."], ["a. b"]),
        (
            {"rule": "json"},
            ["[1]", '{"a": 1}'],
            ["{a: 1}", "NaN", '```json\n{"a": 1}\n```', '{"a": 1} so', "[" * 9**5],
        ),
        ({"rule": "json", "keys": ["a"]}, ['{"a": 1, "b": 2}'], ['{"b": 2}', '["a"]']),
        ({"rule": "ascii"}, ["plain"], ["na\u00efve"]),
        ({"rule": "lower"}, ["abc 1"], ["aBc"]),
        ({"rule": "upper"}, ["ABC 1"], ["aBc"]),
    ],
)
def test_demands_hold_exactly(demand: dict[str, object], met: list[str], not_met: list[str]) -> None:
    constraints = read_constraints([demand])
    assert [unmet(constraints, answer) for answer in met] == [[]] * len(met)
    assert all(len(unmet(constraints, answer)) == 1 for answer in not_met)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("[]", "give an object"),
        ("{", "not JSON"),
        ({"mode": "ten_grades"}, "mode 'ten_grades'"),
        ({"constraint": []}, "does not know constraint"),
        ({"references": [""]}, "none empty"),
        ({"references": ["a"] * 17}, "at most 16"),
        ({"constraints": {}}, "list"),
        ({"constraints": [{"rule": "sentences"}]}, "no constraint"),
        ({"constraints": [{"rule": "words"}]}, "demands nothing"),
        ({"constraints": [{"rule": "words", "least": 5, "most": 4}]}, "least <= most"),
        ({"constraints": [{"rule": "words", "most": True}]}, "least <= most"),
        ({"constraints": [{"rule": "words", "most": 4, "text": "a"}]}, "does not know text"),
        ({"constraints": [{"rule": "contains", "text": ""}]}, "needs `text`"),
        ({"constraints": [{"rule": "json", "keys": [1]}]}, "are names"),
    ],
)
def test_specifications_that_cannot_be_followed_are_refused(spec: object, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        parse_judge_spec(spec if isinstance(spec, str) else json.dumps(spec))
