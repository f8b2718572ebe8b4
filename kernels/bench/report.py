"""The table of a benchmark: what, measured, target, ratio, notes. One failure costs one row."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from harness import FAILED_ROW, attempt, machine

T = TypeVar("T")
HEADER = "| what | measured | target | ratio | notes |\n| --- | --- | --- | --- | --- |"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """One figure. A ratio of 1 or more meets the target."""

    what: str
    measured: float
    unit: str
    target: str
    ratio: float | None
    notes: str

    def __str__(self) -> str:
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f}" + (" MISSED" if self.ratio < 1 else "")
        measured = f"{_shown(self.measured)} {self.unit}".strip()
        return f"| {self.what} | {measured} | {self.target or '-'} | {ratio} | {self.notes} |"


@dataclass
class Report:
    """Rows are printed as they come and as a whole at the end; to $OUT as JSON, where that is set."""

    name: str
    device: str
    note: str = ""
    rows: list[ReportRow] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(
        self,
        what: str,
        measured: float | None,
        unit: str = "",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        notes: str = "",
    ) -> None:
        """None: it cannot be measured here, and there is no row."""
        if measured is None:
            return
        target, ratio = "", None
        if at_least is not None:
            target, ratio = f">= {_shown(at_least)}", measured / at_least if at_least else None
        elif at_most is not None:
            target, ratio = f"<= {_shown(at_most)}", at_most / measured if measured else None
        row = ReportRow(what=what, measured=measured, unit=unit, target=target, ratio=ratio, notes=notes)
        self.rows.append(row)
        print(row, flush=True)

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def require(self, what: str, is_true: bool) -> None:
        """Something that must hold; where it does not, the benchmark fails."""
        if not is_true:
            self.failed.append(what)
            print(f"{FAILED_ROW}{what}: does not hold", flush=True)

    def guard(self, label: str, call: Callable[[], object]) -> None:
        """Do this; where it fails say why and go on."""
        if attempt(f"{self.name} {label}", lambda: (traced(call),)) is None:
            self.failed.append(label)

    def show(self) -> None:
        where = machine() if self.device == "cuda" else f"CPU, torch {torch.__version__}"
        print(f"\n### {self.name}\n{where}{'; ' + self.note if self.note else ''}\n{HEADER}")
        print("\n".join(map(str, self.rows)), flush=True)
        folder = os.environ.get("OUT")
        if folder:
            rows = [asdict(row) for row in self.rows]
            content = {"machine": where, "note": self.note, "rows": rows, "failed": self.failed}
            path = Path(folder, f"bench_{self.name}.json")
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def traced(call: Callable[[], T]) -> T:
    """With the whole traceback where it fails: `attempt` prints one line."""
    try:
        return call()
    except Exception:
        traceback.print_exc()
        raise


def _shown(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
