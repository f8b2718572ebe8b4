"""The record: what is written is read back, and what is none says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_core.errors import InvalidInputError
from forklight_data.record import read_json, read_record, write_record
from forklight_data.seen import SeenIds
from forklight_data.text import signature_of, words_of

RECENT = 256
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=80).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAME = st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True)
MESSAGES = st.lists(st.builds(lambda text: {"role": "system", "content": text}, TEXT), max_size=2)
ROWS = st.builds(
    lambda name, system, text, answer, meta, domain: {
        "id": name,
        "source": name,
        "domain": domain,
        "prompt": [*system, {"role": "user", "content": text}],
        "verifier": {"kind": "math", "version": "", "spec": meta},
        "answer": answer,
        "meta": meta,
        "difficulty": {"k": 10, "passes": 3, "policy_version": "v1"},
    },
    NAME,
    MESSAGES,
    TEXT,
    TEXT,
    st.dictionaries(TEXT.filter(lambda key: key != "ref"), JSON, max_size=3),
    st.sampled_from(["math", "logic", "code", "swe", "stem", "general"]),
)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_a_record_is_the_same_after_writing_and_reading(row: dict[str, Any]) -> None:
    record = read_record(read_json(json.dumps(row)))
    line = write_record(record)
    again = read_record(read_json(line))
    assert again == record
    assert write_record(again) == line
    assert line.count(b"\n") == 1


GOOD = {
    "id": "a",
    "source": "s",
    "domain": "math",
    "prompt": [{"role": "user", "content": "1+1?"}],
    "verifier": {"kind": "math"},
    "answer": "2",
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "id is empty"),
        ({"id": "x" * 201}, "longer than 200"),
        ({"id": "a\nb"}, "not printable"),
        ({"id": None}, "id is a NoneType"),
        ({"source": "x" * 65}, "source is longer"),
        ({"domain": "maths"}, "domain is 'maths'"),
        ({"prompt": []}, "not a list of messages"),
        ({"prompt": [{"role": "user", "content": None}]}, "content is a NoneType"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "ends with a message of assistant"),
        ({"prompt": [{"role": "tool", "content": "x"}]}, "role is none of"),
        ({"prompt": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
        ({"verifier": {"kind": "Math!"}}, "kind is 'Math!'"),
        ({"verifier": {"kind": "math", "spec": {"ref": "sha:1"}}}, "b3: and 64"),
        ({"answer": ["2"]}, "answer is a list"),
        ({"answer": True}, "answer is a bool"),
        ({"difficulty": {"k": 3, "passes": 4, "policy_version": "v"}}, "0 <= passes <= k"),
        ({"difficulty": {"k": 3, "passes": 1}}, "no policy_version"),
        ({"hashes": {"prompt": "0", "answer": "0"}}, "changed or damaged"),
        ({"gold": "2"}, "unknown key 'gold'"),
    ],
)
def test_what_is_no_record_says_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        read_record({**GOOD, **changes})


def test_json_bombs_are_refused_and_not_met() -> None:
    with pytest.raises(InvalidInputError, match="nested"):
        read_json("[" * 100_000 + "]" * 100_000)
    nested: Any = 1
    for _ in range(200):
        nested = [nested]
    with pytest.raises(InvalidInputError, match="nested deeper"):
        read_record({**GOOD, "meta": {"deep": nested}})
    with pytest.raises(InvalidInputError, match="NaN"):
        read_json('{"a": NaN}')
    with pytest.raises(InvalidInputError):
        read_json("1" * 10_000)


def test_ids_are_found_again_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forklight_data.seen.RECENT", RECENT)
    seen = SeenIds()
    many = 7 * RECENT + 17
    assert all(seen.first_place(f"id{number}", number) is None for number in range(many))
    assert [seen.first_place(f"id{number}", -1) for number in (0, RECENT, many - 1)] == [0, RECENT, many - 1]


def test_signatures_tell_different_problems_apart() -> None:
    def signature(text: str) -> str:
        return signature_of(words_of(text))

    assert signature("the sum of the first ten odd numbers") != signature(
        "the sum of the first ten even numbers"
    )
    assert signature("What is $3 + 4$?") != signature("What is $3 - 4$?")
    assert signature("Compute \\dfrac{1}{2} of it.") == signature("compute \\frac{1}{2} of IT")
    assert len(words_of("\u4e09\u89d2\u5f62")) == 3
