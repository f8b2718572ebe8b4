"""Chooses the reference of a comparison out of several answers, by a tournament between them.

In: prompt rows with `candidates`, a list of answers. Out: rows of kind `judge` that compare with the best.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import InvalidInputError
from forklight_reward.judge.lines import count_whole_lines
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.judge.prompt import Question
from forklight_reward.judge.spec import MOST_REFERENCES, Mode, parse_judge_spec
from forklight_reward.judge.swiss import MOST_PLAYERS, rank_candidates

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One row's answers."""

    row: Row
    task: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How it ended."""

    row: Row
    num_compared: int
    num_undecided: int
    """Comparisons that the judge would not say; they counted as draws."""


def read_contest(line: str, where: str) -> Contest:
    """A row; InvalidInputError says where and what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where} is not JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise InvalidInputError(f"{where} is no prompt row: give id, prompt and candidates")
    if row.get("kind", "judge") != "judge":
        raise InvalidInputError(
            f"{where} is of kind {row['kind']!r}: only rows of kind judge have references"
        )
    given = row.get("candidates")
    if not isinstance(given, list) or not all(isinstance(each, str) and each.strip() for each in given):
        raise InvalidInputError(f"{where}: `candidates` must be a list of answers, none empty")
    candidates = tuple(dict.fromkeys(given))
    if not 1 <= len(candidates) <= MOST_PLAYERS:
        raise InvalidInputError(
            f"{where} has {len(candidates)} different candidates: 1 to {MOST_PLAYERS} can play"
        )
    spec = row.get("spec") or {}
    parse_judge_spec(json.dumps(spec))
    return Contest(row=row, task=row["prompt"], candidates=candidates)


async def choose(judge: Pairwise, contest: Contest, *, keep: int, timeout_s: float) -> Choice:
    """Play, and write the winner as `gold` and the next `keep` as further references."""
    counts = {"compared": 0, "undecided": 0}

    async def compare(first: int, second: int) -> int | None:
        question = Question(
            task=contest.task, reference=contest.candidates[second], candidate=contest.candidates[first]
        )
        result = await judge.compare(question, timeout_s)
        counts["compared"] += 1
        counts["undecided"] += result is None
        return result

    order = await rank_candidates(len(contest.candidates), compare)
    best, *others = [contest.candidates[each.index] for each in order]
    return Choice(
        row=_finish(contest.row, best, others[: min(keep, MOST_REFERENCES)]),
        num_compared=counts["compared"],
        num_undecided=counts["undecided"],
    )


def _finish(row: Row, best: str, others: Sequence[str]) -> Row:
    given = row.get("spec")
    spec = dict(given) if isinstance(given, dict) else {}
    spec |= {"mode": Mode.PAIRWISE.value, "references": list(others)}
    kept = {name: value for name, value in row.items() if name != "candidates"}
    return kept | {"kind": "judge", "gold": best, "spec": spec}


async def in_order(
    contests: Sequence[Contest], play: Callable[[Contest], Awaitable[Choice]], *, at_once: int
) -> AsyncIterator[Choice]:
    """Some at once, results in order; when one fails the others are cancelled."""
    running: deque[asyncio.Future[Choice]] = deque()
    waiting = iter(contests)
    try:
        while True:
            while len(running) < at_once and (contest := next(waiting, None)) is not None:
                running.append(asyncio.ensure_future(play(contest)))
            if not running:
                return
            yield await running[0]
            running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournaments:
    """How rows are played, and where what is decided is kept until all of it is."""

    judge: Pairwise
    keep: int
    timeout_s: float
    at_once: int

    async def play_all(
        self, contests: Sequence[Contest], partial: Path, tick: Callable[[int], object]
    ) -> dict[str, int]:
        """A line each, in order, as soon as it is decided; what is there already is not played again."""
        num_done = count_whole_lines(partial)
        tick(num_done)
        totals = {"num_rows": len(contests), "num_resumed": num_done, "num_compared": 0, "num_undecided": 0}
        with partial.open("a", encoding="utf-8") as file:
            async for choice in in_order(contests[num_done:], self._play, at_once=self.at_once):
                file.write(json.dumps(choice.row, sort_keys=True) + "\n")
                file.flush()
                totals["num_compared"] += choice.num_compared
                totals["num_undecided"] += choice.num_undecided
                tick(1)
        return totals

    async def _play(self, contest: Contest) -> Choice:
        return await choose(self.judge, contest, keep=self.keep, timeout_s=self.timeout_s)


def read_contests(path: Path) -> list[Contest]:
    """All rows of a file, checked before anybody is asked."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from None
    lines = enumerate(text.split("\n"), start=1)
    return [read_contest(line, f"{path}:{number}") for number, line in lines if line.strip()]
