"""What the page shows of the judge: how it stands, and its last windows and probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forklight_console.page import format_time, format_value
from forklight_console.ports import JudgeRecord

COLUMNS = (
    "at",
    "kind",
    "version",
    "slope",
    "error",
    "cusum",
    "alarm",
    "level",
    "beta",
    "residual",
    "padding",
    "padding_left",
    "abstain_share",
)
LEVELS = ("none", "offset", "length-neutral prompt", "references of like length", "off: it abstains")
MEASURED = ("window", "padding", "switch")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePanel:
    """A short list and a table, newest first."""

    standing: Sequence[tuple[str, str]]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def make_judge_panel(records: Sequence[JudgeRecord]) -> JudgePanel | None:
    """None while no judge has measured anything."""
    measured = [record for record in records if record.get("kind") in MEASURED]
    if not measured:
        return None

    def last(name: str) -> object:
        return next((each[name] for each in reversed(measured) if each.get(name) is not None), None)

    columns = [name for name in COLUMNS if any(record.get(name) is not None for record in measured)]
    rows = [[_shown(name, record.get(name)) for name in columns] for record in reversed(measured)]
    return JudgePanel(
        standing=(
            ("pays for length", "yes: alarm" if last("alarm") else "no"),
            ("measures", _level(last("level"))),
            ("score a doubling, raw", format_value(last("slope"))),
            ("score a doubling, given out", format_value(last("residual"))),
            ("padding gains", format_value(last("padding"))),
            ("abstains from", format_value(last("abstain_share"))),
        ),
        columns=columns,
        rows=rows,
    )


def _level(level: object) -> str:
    if not isinstance(level, int) or not 0 <= level < len(LEVELS):
        return "-"
    return f"{level} {LEVELS[level]}"


def _shown(name: str, value: object) -> str:
    return format_time(value) if name == "at" and isinstance(value, float) else format_value(value)
