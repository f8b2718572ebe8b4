"""Rules that stand in where the data path alone is tested: the real ones are tested from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from forklight_core.errors import NotFoundError
from forklight_data.curating import StepReport, Tools, curate
from forklight_data.ports import NobodyWatches
from forklight_data.recipe import make_recipe
from forklight_data.record import Record


class FractionRules:
    """Answers are fractions or words; everything is readable that is not empty."""

    fingerprint = "fractions/1"

    def version(self, kind: str) -> str:
        if kind not in ("math", "code", "logic", "judge"):
            raise NotFoundError(kind)
        return f"{kind}/1"

    def find_problem(self, record: Record) -> str:
        return "" if record.answer or record.verifier.spec else "no answer"

    def agree(self, kind: str, answer: str, other: str) -> bool:
        try:
            return Fraction(answer) == Fraction(other)
        except (ValueError, ZeroDivisionError):
            return answer == other


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Curation:
    """A curation of given rows in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rules = FractionRules()
        self.watcher = NobodyWatches()
        self.reports: list[StepReport] = []

    def __call__(self, rows: Sequence[Mapping[str, Any]], *steps: str, **parts: Any) -> Curation:
        self.folder.mkdir(exist_ok=True)
        source = write_rows(self.folder / "in.jsonl", rows)
        recipe = make_recipe({"steps": list(steps) or None, **parts}, "test")
        self.reports = curate(source, self.folder / "out", recipe, Tools(rules=self.rules))
        return self

    @property
    def kept(self) -> list[str]:
        return [item["id"] for item in read_rows(self.folder / "out" / "curated.jsonl")]

    @property
    def gone(self) -> dict[str, tuple[str, str]]:
        found = {}
        for path in sorted((self.folder / "out").glob("*.dropped.jsonl")):
            for item in read_rows(path):
                found[item["id"]] = (item["reason"], item.get("of", ""))
        return found


@pytest.fixture
def curation(tmp_path: Path) -> Curation:
    return Curation(tmp_path / "curation")


@pytest.fixture
def make_curation(tmp_path: Path) -> Callable[[str], Curation]:
    return lambda name: Curation(tmp_path / name)
