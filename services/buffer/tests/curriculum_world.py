"""Prompts and evidence for tests of the curriculum."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.curriculum.schedule import Moment
from forklight_buffer.curriculum.state import CurriculumState
from forklight_buffer.ledger import EvidencePage
from forklight_buffer.prompts import PromptBook, read_prompts
from forklight_buffer.records import Evidence, GroupRow, SampleRow
from forklight_buffer.states import Purpose, State
from forklight_core import ids
from forklight_core.runfile import RunFile

START = Moment(step=0, window=10)


def write_rows(path: Path, rows: Iterable[dict[str, object]]) -> Path:
    """Rows need only say what is special about them."""
    plain = {"prompt": "?", "kind": "math", "gold": "1"}
    path.write_text("".join(json.dumps(plain | row) + "\n" for row in rows))
    return path


def domain_rows(domain: str, count: int, **more: object) -> list[dict[str, object]]:
    mark = "-".join([domain, *(str(value) for value in more.values())])
    return [{"id": f"{mark}-{number}", "domain": domain, **more} for number in range(count)]


def book_of(folder: Path, rows: Iterable[dict[str, object]]) -> PromptBook:
    return read_prompts(write_rows(folder / "train.jsonl", rows), seed=0, shuffle=True)


def run_file_of(*, windows: Sequence[int] = (10, 20, 40), **curriculum: Any) -> RunFile:
    return RunFile.model_validate(
        {"curriculum": {"on": True} | curriculum, "length": {"windows": list(windows)}, "run": {"seed": 7}}
    )


def page_of(rows: Sequence[Evidence], *, step: int = 0, after: int = 0) -> EvidencePage:
    return EvidencePage(
        rows=rows,
        last_number=rows[-1].number if rows else after,
        lineage="l0001",
        step=step,
        is_last=True,
        open_prompts={},
    )


def draw_free(state: CurriculumState, book: PromptBook, count: int, moment: Moment = START) -> list[str]:
    """Ids of prompts at the first positions, each of them finished before the next is drawn."""
    found = []
    for position in range(count):
        found.append(book.prompts[state.draw(position, moment)].prompt_id)
        state.set_open({})
    return found


def assert_near(count: int, of: int, share: float) -> None:
    """Within three standard deviations of a fair draw."""
    deviation = (of * share * (1.0 - share)) ** 0.5
    assert abs(count - of * share) <= 3.0 * deviation + 1e-9, f"{count} of {of}, expected a share of {share}"


def assert_shares(names: Sequence[str], shares: dict[str, float]) -> None:
    counts = Counter(name.partition("-")[0] for name in names)
    assert set(counts) <= {name for name, share in shares.items() if share}, counts
    for name, share in shares.items():
        assert_near(counts[name], len(names), share)


def enter_groups(ledger: SqliteLedger, numbers: range, names: Sequence[str]) -> None:
    """Groups that were opened and have ended, but for every fifth of them."""
    for number in numbers:
        group = GroupRow(
            group_id=ids.training_group_id("t", number), purpose=Purpose.TRAIN, index=number,
            position=number, prompt_id=names[number % len(names)], kind="math", size=2, window=10,
            opened_version=0, opened_at=0.0,
        )  # fmt: skip
        ledger.journal_groups([group])
        if number % 5:
            ledger.enter_samples([ended_sample(group, index) for index in range(group.size)])


def ended_sample(group: GroupRow, index: int) -> SampleRow:
    rightness = float((group.index + index) % 3 > 0)
    return SampleRow(
        sample_id=ids.sample_id(group.group_id, index), group_id=group.group_id, prompt_id=group.prompt_id,
        purpose=group.purpose, state=State.FILTERED, reward=rightness - 0.5, correct=rightness,
    )  # fmt: skip


def state_of(ledger: SqliteLedger, book: PromptBook, run_file: RunFile) -> CurriculumState:
    """As a buffer that starts has it."""
    state = CurriculumState(book, run_file)
    page = ledger.evidence(after=0, limit=10_000, with_open=True)
    state.learn(page)
    state.set_open(page.open_prompts)
    return state
