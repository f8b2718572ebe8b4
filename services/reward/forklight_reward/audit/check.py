"""Proves the chains of an audit folder: every file by itself, and that each follows the one it names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from forklight_core.errors import DataLossError, NotFoundError
from forklight_reward.audit.chain import Body
from forklight_reward.audit.shard import SUFFIX, Contents, read_shard


@dataclass(slots=True)
class ShardReport:
    """What was found in one file."""

    path: Path
    contents: Contents = field(default_factory=Contents)
    lines: Counter[str] = field(default_factory=Counter)
    """Whole lines by type."""
    num_lost: int = 0
    """Verdicts that its writer says it could not write."""
    follows: tuple[str, str] | None = None
    ends: set[str] = field(default_factory=set)
    """What it may have ended with when another was begun: a repair adds lines later."""
    fault: str = ""

    @property
    def state(self) -> str:
        """One word, the worst first."""
        if self.fault:
            return "broken"
        if self.contents.torn:
            return "torn"
        return "closed" if self.contents.is_closed else "open"


def check_folder(folder: Path) -> list[ShardReport]:
    """A report a file, in the order of their names. NotFoundError when there are none."""
    reports = [_check(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    if not reports:
        raise NotFoundError(f"{folder} holds no audit files: expected verdicts/*.jsonl of a run folder")
    by_name = {report.path.name: report for report in reports}
    for report in reports:
        if report.follows is None or report.fault:
            continue
        name, digest = report.follows
        before = by_name.get(name)
        if before is not None and not before.fault and digest not in before.ends:
            report.fault = (
                f"{report.path}:1: it follows {name}, but no line there has the hash {digest[:12]}...: "
                "lines were cut off there, or both were written anew"
            )
    return reports


def _check(path: Path) -> ShardReport:
    report = ShardReport(path=path)

    def visit(body: Body) -> None:
        kind = str(body.get("type"))
        report.lines[kind] += 1
        if kind == "gap":
            report.num_lost += int(str(body.get("num_lost")))
        if kind not in ("repair", "end"):
            report.ends.clear()
        report.ends.add(str(body.get("hash")))
        before = body.get("follows")
        if kind == "shard" and isinstance(before, dict):
            report.follows = str(before.get("shard")), str(before.get("hash"))

    try:
        report.contents = read_shard(path, visit)
    except DataLossError as error:
        report.fault = str(error)
    return report
