"""Memory and CPU time of a curriculum over many prompts: of a pick, a finished group, a start."""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.curriculum.schedule import Moment
from forklight_buffer.curriculum.state import CurriculumState
from forklight_buffer.ledger import EvidencePage
from forklight_buffer.prompts import Prompt, PromptBook, Traits
from forklight_buffer.records import Evidence, GroupRow, SampleRow
from forklight_buffer.states import Purpose, State
from forklight_core.runfile import RunFile

MOMENT = Moment(step=50, window=40960)
NUM_PICKS, NUM_EVIDENCE, NUM_LEDGER = 20_000, 200_000, 20_000
OPEN_AT_ONCE = 512
Made = TypeVar("Made")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        book = timed("make the prompts", lambda: make_book(options.prompts))
        before = resident_mib()
        say("resident with the prompts", before, "MiB")
        state = timed("make the state", lambda: CurriculumState(book, run_file()))
        say("memory of the state", resident_mib() - before, "MiB")
        measure_picks(state)
        measure_evidence(book, state)
        measure_ledger(folder, book)


def make_book(num_prompts: int) -> PromptBook:
    """Four domains, one of them puzzles of 41 tasks with 5 levels, one synthetic."""
    chance = random.Random(0)
    known = {name: [Traits(name, "", name, None, name == "code")] for name in ("math", "code", "general")}
    known["logic"] = [
        Traits("logic", "", f"task-{task}", level, None) for task in range(41) for level in range(1, 6)
    ]
    domains = list(known)
    return PromptBook(
        tuple(
            Prompt(
                prompt_id=f"p{number:07d}",
                text=f"What is {number}?",
                kind="math",
                gold="1",
                spec_json="",
                traits=chance.choice(known[chance.choice(domains)]),
            )
            for number in range(num_prompts)
        ),
        seed=0,
        shuffle=True,
    )


def run_file() -> RunFile:
    domains = {name: {"weight": 1.0} for name in ("math", "code", "logic")}
    general = {"general": {"weight": 0.5, "by_step": [[0, 0.0], [100, 1.0]]}}
    return RunFile.model_validate({"curriculum": {"on": True, "domains": domains | general}})


def measure_picks(state: CurriculumState) -> None:
    """With as many groups open as a run has by default."""
    for position in range(OPEN_AT_ONCE):
        state.draw(position, MOMENT)
    started = time.process_time()
    for position in range(NUM_PICKS):
        state.draw(OPEN_AT_ONCE + position, MOMENT)
    per_pick = (time.process_time() - started) / NUM_PICKS
    say("a pick", per_pick * 1e6, "us")
    say("picks", 1.0 / per_pick, "a second")


def measure_evidence(book: PromptBook, state: CurriculumState) -> None:
    chance = random.Random(1)
    rows = [
        Evidence(number, chance.choice(book.prompts).prompt_id, 16, float(chance.randrange(17)), 0)
        for number in range(1, NUM_EVIDENCE + 1)
    ]
    started = time.process_time()
    state.learn(page_of(rows))
    say("learn from a finished group", (time.process_time() - started) / NUM_EVIDENCE * 1e6, "us")


def page_of(rows: Sequence[Evidence]) -> EvidencePage:
    return EvidencePage(
        rows=rows, last_number=rows[-1].number, lineage="", step=0, is_last=True, open_prompts={}
    )


def measure_ledger(folder: Path, book: PromptBook) -> None:
    """What the ledger does for it: a row with every group that ends, all rows when a buffer starts."""
    ledger = SqliteLedger(folder / "ledger.sqlite")
    chance, size = random.Random(2), 16
    for start in range(0, NUM_LEDGER, 64):
        groups = [
            group_row(number, chance.choice(book.prompts).prompt_id) for number in range(start, start + 64)
        ]
        ledger.journal_groups(groups)
        ledger.enter_samples([sample_row(group, index) for group in groups for index in range(size)])

    def start_again() -> CurriculumState:
        state = CurriculumState(book, run_file())
        number, is_last = 0, False
        while not is_last:
            page = ledger.evidence(after=number, limit=20_000, with_open=True)
            state.learn(page)
            number, is_last = page.last_number, page.is_last
        return state

    started = time.process_time()
    CurriculumState(book, run_file())
    made = time.process_time()
    start_again()
    per_group = (2 * made - started - time.process_time()) / -NUM_LEDGER
    say("start again, for every finished group", per_group * 1e6, "us")
    ledger.close()


def group_row(number: int, prompt_id: str) -> GroupRow:
    return GroupRow(
        group_id=f"bench/g{number:08d}", purpose=Purpose.TRAIN, index=number, position=number,
        prompt_id=prompt_id, kind="math", size=16, window=10, opened_version=0, opened_at=float(number),
    )  # fmt: skip


def sample_row(group: GroupRow, index: int) -> SampleRow:
    return SampleRow(
        sample_id=f"{group.group_id}/s{index:03d}", group_id=group.group_id, prompt_id=group.prompt_id,
        purpose=Purpose.TRAIN, state=State.FILTERED, reward=float(index % 2), correct=float(index % 2),
    )  # fmt: skip


def timed(name: str, make: Callable[[], Made]) -> Made:
    started = time.process_time()
    made = make()
    say(name, time.process_time() - started, "s")
    return made


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def say(what: str, figure: float, unit: str) -> None:
    sys.stdout.write(f"{what:40} {figure:12,.1f} {unit}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
