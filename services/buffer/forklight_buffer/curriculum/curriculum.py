"""The curriculum of a run: looks at new evidence, draws, and tells people what it decided."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence

from forklight.v1 import types_pb2
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.curriculum.judged import JudgedWeight
from forklight_buffer.curriculum.levels import LevelChange
from forklight_buffer.curriculum.schedule import Moment
from forklight_buffer.curriculum.state import CurriculumState
from forklight_buffer.live import Standing
from forklight_buffer.prompts import Prompt, PromptBook
from forklight_buffer.records import GroupRow
from forklight_buffer.steering import Steering
from forklight_core.telemetry import counter, gauge

ROWS_AT_ONCE = 20_000


class Curriculum:
    """Implements `PromptOrder`. Its state is read from the ledger when it is first asked."""

    def __init__(self, context: Context, steering: Steering, book: PromptBook) -> None:
        self._context = context
        self._steering = steering
        self._book = book
        self._state = CurriculumState(book, context.run_file)
        self._judged = JudgedWeight(context.ledger)
        self._sees_all = False
        self._last_told = 0
        self._told_wanting: set[str] = set()

    @property
    def state(self) -> CurriculumState:
        """As of the last pick."""
        return self._state

    async def pick(self, positions: range, standing: Standing) -> list[Prompt]:
        """Prompts by weight, on everything the ledger knows now."""
        await asyncio.to_thread(self._catch_up)
        moment = Moment(step=self._state.step, window=standing.window, judged=self._judged.factor)
        await self._tell_levels()
        await self._tell_shares(moment)
        places = [self._state.draw(position, moment) for position in positions]
        drawn = Counter(self._book.prompts[place].traits.domain for place in places)
        for domain, num_groups in drawn.items():
            counter(metrics.CURRICULUM_GROUPS).add(num_groups, {"domain": domain})
        return [self._book.prompts[place] for place in places]

    def note_redriven(self, rows: Sequence[GroupRow]) -> None:
        """Their prompts are open."""
        for row in rows:
            place = self._book.place_of(row.prompt_id)
            if place is not None:
                self._state.open_prompt(place)

    def look_again(self) -> None:
        """What is open is read from the ledger at the next pick."""
        self._sees_all = False

    def _catch_up(self) -> None:
        """New evidence; all of it again when the run went back, or onto another line of checkpoints."""
        self._judged.catch_up()
        while True:
            page = self._context.ledger.evidence(
                after=self._state.last_number, limit=ROWS_AT_ONCE, with_open=not self._sees_all
            )
            if not self._state.follows(page):
                self._state = CurriculumState(self._book, self._context.run_file)
                self._told_wanting.clear()
                self._sees_all = False
                continue
            self._state.learn(page)
            if page.is_last:
                if not self._sees_all:
                    self._state.set_open(page.open_prompts)
                self._sees_all = True
                return

    async def _tell_levels(self) -> None:
        """Changes found again have the ids they had: the ledger enters each once a line of checkpoints."""
        for change in list(self._state.changes):
            if change.number > self._last_told:
                await self._steering.report(level_event(change, at=self._context.clock()))
        self._last_told = self._state.last_number
        for task, ladder in self._state.ladders.items():
            gauge(metrics.CURRICULUM_LEVEL).set(ladder.level, {"task": task})

    async def _tell_shares(self, moment: Moment) -> None:
        """That a domain has nothing to draw is said once; its share is a metric ever after."""
        for domain, why in self._state.wanting(moment).items():
            if domain not in self._told_wanting:
                event = wanting_event(domain, why, moment, at=self._context.clock())
                await self._steering.report(event)
                self._told_wanting.add(domain)
        shares = dict.fromkeys(self._state.weights(moment), 0.0)
        for (domain, _), share in self._state.shares(moment).items():
            shares[domain] += share
        for domain, share in shares.items():
            gauge(metrics.CURRICULUM_SHARE).set(share, {"domain": domain})


def level_event(change: LevelChange, *, at: float) -> types_pb2.RunEvent:
    """A task rose or fell."""
    verb = "rises" if change.after > change.before else "falls"
    return types_pb2.RunEvent(
        id=f"curriculum-level-{change.number}",
        kind="curriculum_level",
        severity=types_pb2.SEVERITY_INFO,
        step=change.step,
        at=at,
        title=f"{change.task} {verb} from level {change.before} to {change.after}: the moving average of its "
        f"pass rate is {change.average:.2f} after {change.num_groups} groups of the level",
        evidence_json=json.dumps(
            {
                "task": change.task,
                "before": change.before,
                "after": change.after,
                "average_pass_rate": round(change.average, 6),
                "num_groups": change.num_groups,
                "evidence": change.number,
            }
        ),
    )


def wanting_event(domain: str, why: str, moment: Moment, *, at: float) -> types_pb2.RunEvent:
    """A domain gives its share away."""
    return types_pb2.RunEvent(
        id=f"curriculum-wanting-{domain}",
        kind="curriculum_wanting",
        severity=types_pb2.SEVERITY_WARNING,
        step=moment.step,
        at=at,
        title=f"Domain {domain} has nothing to draw: {why}. Its share goes to the other domains; "
        "add prompts of it, or lower its weight in curriculum.domains",
        evidence_json=json.dumps({"domain": domain, "step": moment.step, "window": moment.window}),
    )
