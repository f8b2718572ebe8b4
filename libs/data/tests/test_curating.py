"""A curation as a whole: the same bytes again, what is reused, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from forklight_core.errors import ConfigError, DataLossError, InvalidInputError
from forklight_data.curating import Tools, curate
from forklight_data.recipe import StepName, make_recipe, read_recipe

ROWS = [
    {
        "id": f"r{number}",
        "source": "s",
        "domain": "math",
        "prompt": [{"role": "user", "content": f"What is {number % 20}+{number % 3}?"}],
        "verifier": {"kind": "math"},
        "answer": str(number % 20 + number % 3),
    }
    for number in range(70)
]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_task_gives_the_same_bytes(make_curation: Callable[[str], Any]) -> None:
    first, second = make_curation("first")(ROWS), make_curation("second")(ROWS)
    assert bytes_of(first.folder / "out") == bytes_of(second.folder / "out")
    assert len(first.kept) == 60
    counts = [(report.manifest.num_input, report.manifest.num_kept) for report in first.reports]
    assert all(before[1] == after[0] for before, after in pairwise(counts))


def test_what_was_done_is_kept_until_something_changes(curation: Any) -> None:
    curation(ROWS, "format", "duplicates")
    before = bytes_of(curation.folder / "out")
    curation(ROWS, "format", "duplicates")
    assert [report.reused for report in curation.reports] == [True, True, True]
    curation(ROWS, "format", "duplicates", format={"most_characters": 9})
    assert [report.reused for report in curation.reports] == [True, False, False]
    curation(ROWS, "format", "duplicates")
    assert bytes_of(curation.folder / "out") == before
    damaged = curation.folder / "out" / "02_format.jsonl"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    curation(ROWS, "format", "duplicates")
    assert [report.reused for report in curation.reports] == [True, False, True]
    assert bytes_of(curation.folder / "out") == before


def test_a_step_can_be_done_again(curation: Any) -> None:
    curation(ROWS, "format", "duplicates")
    recipe = make_recipe({"steps": ["format", "duplicates"]}, "test")
    source, out, tools = curation.folder / "in.jsonl", curation.folder / "out", Tools(rules=curation.rules)
    reports = curate(source, out, recipe, tools, from_step=StepName.FORMAT)
    assert [report.reused for report in reports] == [True, False, False]
    with pytest.raises(InvalidInputError, match="step answers is not among"):
        curate(source, out, recipe, tools, from_step=StepName.ANSWERS)


def test_rules_that_cannot_be_asked_drop_nothing(curation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(record: object) -> str:
        raise DataLossError("away")

    monkeypatch.setattr(curation.rules, "find_problem", fail)
    with pytest.raises(DataLossError, match="away"):
        curation(ROWS, "answers")
    assert not (curation.folder / "out" / "05_answers.jsonl").exists()
    assert not (curation.folder / "out" / "curated.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("setps = []", "setps"),
        ("steps = ['formatt']", "steps.0"),
        ("[duplicates]\nthreshold = 2.0", "duplicates.threshold"),
        ("[pass_rate]\nhihg = 0.5", "pass_rate.hihg"),
        ("steps = [", "not TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_recipe(path)


def test_a_recipe_names_its_files_from_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[contamination]\ntests = ["held_out.jsonl"]\n[duplicates]\nthreshold = 0.7\n')
    recipe = read_recipe(path)
    assert recipe.contamination.tests == (tmp_path / "held_out.jsonl",)
    assert recipe.plan[-1] is StepName.CONTAMINATION
    with pytest.raises(ConfigError, match="--against"):
        _ = make_recipe({"steps": ["contamination"]}, "test").plan


def test_manifests_say_what_was_done(curation: Any) -> None:
    curation(ROWS, "duplicates")
    manifest = json.loads((curation.folder / "out" / "06_duplicates.manifest.json").read_text())
    assert manifest["dropped_by_reason"] == {"duplicate": 10}
    assert manifest["task"]["parameters"] == {"threshold": 0.8}
    assert manifest["task"]["code_version"].startswith("forklight-data ")
    assert manifest["num_input"] == manifest["num_kept"] + manifest["num_dropped"] == 70
