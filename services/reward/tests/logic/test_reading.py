"""What the strict readers take and refuse."""

from __future__ import annotations

import pytest

from forklight_reward.logic.reading import (
    read_integer,
    read_integer_rows,
    read_integers,
    read_path,
    read_rows,
    read_symbol_rows,
    read_words,
)
from forklight_reward.logic.task import MOST_ANSWER_CHARACTERS


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), (" -12 ", -12), ("+3", 3), ("007", 7), ("9" * 20, 10**20 - 1)]
)
def test_read_integer_takes_plain_numbers(text: str, value: int) -> None:
    assert read_integer(text) == value


@pytest.mark.parametrize(
    "text", ["", "1.0", "1e3", "1_000", "1,000", "--1", "9" * 21, "\u0661", "\uff11", "0x10", "1 2"]
)
def test_read_integer_refuses_everything_else(text: str) -> None:
    assert read_integer(text) is None


def test_lists_need_one_kind_of_gap() -> None:
    assert read_integers("1, 2,-3") == read_integers("1 2  -3") == [1, 2, -3]
    assert read_integers("1,2", 3) is None
    assert all(read_words(text) is None for text in ("1,,2", "1,2,", ",1", "1 2,3", ""))


def test_rows_end_in_semicolons_or_new_lines() -> None:
    assert read_rows("a;b\r\nc\n", 3) == read_rows("a;\nb;\nc;", 3) == ["a", "b", "c"]
    assert read_rows("a;b", 3) is None
    assert read_integer_rows("1 2;3,4", 2, 2) == [[1, 2], [3, 4]]
    assert all(
        read_integer_rows(text, 2, 2) is None for text in ("1 2;3", "1 2;3 -4", "12;34", "1 2;3 x", "1 2|3 4")
    )
    assert read_symbol_rows("0 1;1,0", 2, 2, "01") == ["01", "10"]
    assert all(read_symbol_rows(text, 2, 2, "01") is None for text in ("01;12", "01;1", "0110"))


def test_paths_have_a_place_on_both_sides_of_every_arrow() -> None:
    assert read_path("a1 -> b3->c5") == ["a1", "b3", "c5"]
    assert all(read_path(text) is None for text in ("a->", "->b", "a->->b", "a b->c", ""))


def test_readers_refuse_text_that_is_too_long() -> None:
    text = "1," * (MOST_ANSWER_CHARACTERS // 2) + "1"
    assert len(text) == MOST_ANSWER_CHARACTERS + 1
    assert (
        read_integers(text) is None and read_path("a->" * 2000) is None and read_rows(";" * 5000, 0) is None
    )
