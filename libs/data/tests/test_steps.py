"""Every step of curation: what goes, what stays, and that it does not depend on what it must not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_data.minhash import estimate, jaccard, low_bytes, shingles_of, signatures_of
from forklight_data.recipe import EmbeddingsPart
from forklight_data.steps.choices import find_choices
from forklight_data.steps.embeddings import drop_by_meaning
from forklight_data.steps.format import clean_text
from forklight_data.steps.step import Dropped, Work
from forklight_data.text import word_hashes

LONG = (
    "A farmer walks along the river from the mill to the old bridge and counts the {} ducks that swim there, "
    "then turns back at noon, meets {} friends on the way, and asks all how many ducks there are in the end"
)


def row(name: str, text: str, answer: str = "1", **more: Any) -> dict[str, Any]:
    """A record as JSON."""
    given: dict[str, Any] = {
        "id": name,
        "source": "s",
        "domain": "math",
        "prompt": [{"role": "user", "content": text}],
        "verifier": {"kind": "math", "version": "", "spec": {}},
        "answer": answer,
    }
    return given | more


def test_the_schema_step_takes_a_record_once(curation: Any) -> None:
    rows = [row("a", "1+1?"), row("a", "1+2?"), {"id": "b"}, row("c", "1+3?")]
    curation(rows, "schema")
    assert curation.kept == ["a", "c"]
    assert curation.gone == {"a": ("repeated_id", "a"), "b": ("not_a_record", "")}


def test_format_cleans_spelling_and_drops_what_cannot_be_mended(curation: Any) -> None:
    rows = [
        row("a", "  What\u200b is\r\n1+1?  \n\n\n\nSay. ", "The answer is: \\boxed{2}"),
        row("b", "How many?", "First 3, then 4.\n#### 7"),
        row("c", "In the figure, what is x?"),
        row("d", "bro\ufffdken"),
        row("e", "\u200b"),
        row("f", "x" * 60_000),
    ]
    curation(rows, "format")
    found = [
        json.loads(line) for line in (curation.folder / "out" / "curated.jsonl").read_text().splitlines()
    ]
    assert [item["prompt"][0]["content"] for item in found] == ["What is\n1+1?\n\nSay.", "How many?"]
    assert [item["answer"] for item in found] == ["2", "7"]
    assert {name: reason for name, (reason, _) in curation.gone.items()} == {
        "c": "needs_picture",
        "d": "broken_text",
        "e": "empty_prompt",
        "f": "too_long",
    }


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        ("Prove that 2 is prime.", "2", "proof"),
        ("Show that x > 0 and find x.", "1", "proof"),
        ("(a) Find x. (b) Find y.", "3", "multi_part"),
        ("Part A: find x. Part B: find y.", "3", "multi_part"),
        ("Is 7 prime?", "Yes.", "yes_no"),
        ("It was proved in 1994. How many years ago was that in 2000?", "6", ""),
        ("Find f(a) when (b) is 3.", "3", ""),
    ],
)
def test_questions_without_one_value_go(curation: Any, text: str, answer: str, reason: str) -> None:
    curation([row("a", text, answer)], "questions")
    assert curation.gone == ({"a": (reason, "")} if reason else {})


def test_choices_become_open_where_the_question_stands_alone(curation: Any) -> None:
    rows = [
        row("a", "What is 2+3? (A) 4 (B) 5 (C) 6", "B"),
        row("b", "What is 1/2 + 1/4?\nA. 1/2\nB. 3/4\nC. 1\nD. 2", "(B)"),
        row("c", "Which of the following is prime? (A) 4 (B) 5 (C) 6", "B"),
        row("d", "What is 2+3? (A) 4 (B) 5 (C) none of these", "B"),
        row("e", "What is 2+2? (A) 4 (B) 8/2 (C) 6", "A"),
        row("f", "What is 2+3? (A) 4 (B) 5 (C) 6", "17"),
        row("g", "Points (A) and (B) are 5 apart. How far is (C)?", "5"),
    ]
    curation(rows, "choices")
    found = [
        json.loads(line) for line in (curation.folder / "out" / "curated.jsonl").read_text().splitlines()
    ]
    told = {item["id"]: (item["prompt"][0]["content"], item["answer"]) for item in found}
    assert told == {
        "a": ("What is 2+3?", "5"),
        "b": ("What is 1/2 + 1/4?", "3/4"),
        "g": (rows[-1]["prompt"][0]["content"], "5"),
    }
    assert {name for name, (reason, _) in curation.gone.items() if reason == "closed_choice"} == {
        "c",
        "d",
        "e",
        "f",
    }
    assert (
        find_choices("What is 2+3? $\\textbf{(A)}\\ 4 \\qquad \\textbf{(B)}\\ 5 \\qquad \\textbf{(C)}\\ 6$")
        is not None
    )


def test_duplicates_go_and_different_numbers_stay(curation: Any) -> None:
    rows = [
        row("a", "What is  1+1?", "2"),
        row("b", "What is 1+1?", "4/2"),
        row("c", "What is 1+2?", "3"),
        row("d", "What is 1+2?", "4"),
        row("e", LONG.format(7, 3), "7"),
        row("f", LONG.format(7, 3).replace("noon", "dusk"), "7"),
        row("g", LONG.format(8, 3), "7"),
        row("h", LONG.format(7, 3).replace("river", "coast"), "9"),
    ]
    curation(rows, "duplicates")
    reasons = {name: reason for name, (reason, _) in curation.gone.items()}
    assert sorted(reasons.values()) == ["conflicting_answers"] * 2 + ["duplicate", "near_duplicate"]
    assert {name for name in "cd" if reasons.get(name) == "conflicting_answers"} == {"c", "d"}
    assert {"g", "h"} <= set(curation.kept) and len({"e", "f"} & set(curation.kept)) == 1
    assert len({"a", "b"} & set(curation.kept)) == 1
    assert curation.reports[-1].manifest.notes["num_near_with_other_answer"] == 1


def test_what_is_kept_does_not_depend_on_the_order_of_rows(make_curation: Callable[[str], Any]) -> None:
    chance = random.Random(3)
    words = [f"{a}{b}" for a in "bcdfg" for b in ("ab", "ec", "id", "of", "ug")]
    rows = []
    for number in range(60):
        text = " ".join(chance.choices(words, k=30))
        rows.append(row(f"r{number}", text, str(number)))
        for copy in range(chance.randint(0, 3)):
            changed = text.split()
            changed[copy] = "other"
            rows.append(row(f"r{number}-{copy}", " ".join(changed), str(number)))
    first = make_curation("first")(rows, "duplicates")
    chance.shuffle(rows)
    second = make_curation("second")(rows, "duplicates")
    assert sorted(first.kept) == sorted(second.kept)
    assert first.gone == second.gone
    assert 60 <= len(first.kept) < len(rows)


def test_estimates_are_near_the_truth_at_any_overlap() -> None:
    chance = random.Random(5)
    words = [f"w{number}" for number in range(4000)]
    for num_changed in (0, 5, 20, 60, 150):
        text = chance.sample(words, 200)
        other = [*chance.sample(words, num_changed), *text[num_changed:]]
        runs = [shingles_of(word_hashes(item)) for item in (text, other)]
        signs = low_bytes(signatures_of(runs))
        assert abs(float(estimate(signs[0], signs[1])) - jaccard(runs[0], runs[1])) < 0.15


class HashedWords:
    """A model that knows nothing but words: enough to find close texts, and to be wrong as models are."""

    name = "hashed-words"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(texts), 256), dtype=np.float32)
        for number, text in enumerate(texts):
            for word in text.lower().split():
                found[number, int(word_hashes([word])[0]) % 256] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_embeddings_nominate_and_do_not_decide(curation: Any, tmp_path: Path) -> None:
    rows = [
        row("a", "What is the sum of the first ten odd numbers?", "100"),
        row("b", "What is the sum of the first ten even numbers?", "110"),
        row("c", "Tell me: how many wheels have 3 cars in all?", "12"),
        row("d", "How many wheels have 3 cars in all? Tell me:", "12"),
        row("e", "Tell me: how many wheels have 3 carts in all?", "6"),
    ]
    curation(rows, "schema")
    source = curation.folder / "out" / "curated.jsonl"
    rules = curation.rules
    part = EmbeddingsPart(threshold=0.8)
    work = Work(
        source=source, scratch=tmp_path, rules=rules, watcher=curation.watcher, embedder=HashedWords()
    )
    outcomes = list(drop_by_meaning(work, part))
    gone = {item.id: item.reason for item in outcomes if isinstance(item, Dropped)}
    assert list(gone.values()) == ["embedding_duplicate"] and set(gone) < {"c", "d"}
    assert work.notes["num_nominated"] == 2
    with pytest.raises(ConfigError, match="needs a model"):
        curation(rows, "embeddings")


def test_what_is_kept_to_test_with_is_found(curation: Any, tmp_path: Path) -> None:
    tests = tmp_path / "tests.jsonl"
    boiler = "Please reason step by step and put your final answer into a box at the end of all"
    items = [LONG.format(7, 3), "How many positive divisors has the number 360 in all?", "What is 2^10?"]
    items += [f"{boiler}. What is {number}?" for number in range(20)]
    written = [json.dumps({"id": f"t{n}", "question": text, "answer": "24"}) for n, text in enumerate(items)]
    tests.write_text("\n".join(written))
    rows = [
        row("long", "Once upon a time: " + LONG.format(7, 3).upper(), "5"),
        row("item", "Think hard! " + items[1] + " Say it.", "5"),
        row("same", "what is 2^{10}", "5"),
        row("short-right", "Tell how many positive divisors has the number 360, please", "48/2"),
        row("short-wrong", "Tell how many positive divisors has the number 360, please", "23"),
        row("within", "is 2^10?", "24"),
        row("boilerplate", f"{boiler}. Name the colour of the sky on a clear day", "7"),
        row("clean", "How many legs have 7 dogs?", "28"),
    ]
    curation(rows, "contamination", contamination={"tests": [str(tests)]})
    assert curation.gone == {
        "long": ("contaminated", "t0"),
        "item": ("contaminated", "t1"),
        "same": ("contaminated", "t2"),
        "short-right": ("contaminated_short", "t1"),
        "within": ("contaminated_short", "t2"),
    }
    assert curation.reports[-1].manifest.notes["num_boilerplate_runs"] > 0
    tests.write_text('{"question": "x"}\nbroken\n')
    with pytest.raises(InvalidInputError, match="tests.jsonl:2"):
        curation(rows, "contamination", contamination={"tests": [str(tests)]})


def test_pass_rates_are_strictly_between_the_bounds(curation: Any, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    told = [{"id": f"p{n}", "k": 10, "passes": n, "policy_version": "v7"} for n in range(11)]
    told.append({"id": "p5", "k": 10, "passes": 2, "policy_version": "v7"})
    results.write_text("".join(json.dumps(item) + "\n" for item in told))
    rows = [row(f"p{number}", f"{number}+1?") for number in range(12)]
    curation(rows, "pass_rate", pass_rate={"results": [str(results)]})
    assert curation.kept == [f"p{number}" for number in range(1, 9)]
    assert curation.gone["p9"] == ("too_easy", "") and curation.gone["p0"] == ("too_hard", "")
    assert curation.gone["p11"] == ("unmeasured", "")
    found = [
        json.loads(line) for line in (curation.folder / "out" / "curated.jsonl").read_text().splitlines()
    ]
    assert found[4]["difficulty"] == {"k": 20, "passes": 7, "policy_version": "v7"}
    results.write_text(results.read_text() + json.dumps(told[0] | {"policy_version": "v8"}) + "\n")
    with pytest.raises(InvalidInputError, match="v7 and v8"):
        curation(rows, "pass_rate", pass_rate={"results": [str(results)]})
