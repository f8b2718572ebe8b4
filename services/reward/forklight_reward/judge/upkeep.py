"""What a judge does beside judging: lead, keep the ladder on disk, probe with padding, tell the run.

One judge of a run leads (a lock on RUN/judge/leader); the others judge by what it wrote. None of this is on
the way of a request, and whatever fails here is tried again a little later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace

from forklight.v1 import types_pb2
from forklight_core.errors import ForklightError, PreconditionError
from forklight_core.lifecycle import sleep_or_stop
from forklight_reward.judge.desk import JudgeDesk, offset_of
from forklight_reward.judge.ladder import Ladder
from forklight_reward.judge.padding import FACTORS, Row, pad, report_padding, score_padded
from forklight_reward.judge.prompt import Question, Variant
from forklight_reward.judge.recalibration import Calibration, Level
from forklight_reward.judge.spec import Mode
from forklight_reward.judge.store import CalibrationStore
from forklight_reward.judge.watch import SeenGroup

Tell = Callable[[Sequence[types_pb2.RunEvent]], Awaitable[None]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepOptions:
    """How often and how much."""

    recalibrate: bool = True
    """False: measure and warn, and change nothing."""
    probe_every: int = 8
    """Windows between two padding probes; 0: none."""
    probe_timeout_s: float = 120.0
    probe_at_once: int = 2
    probe_pause_s: float = 30.0
    """After one that failed."""
    every_s: float = 0.25
    lead_every_s: float = 5.0
    tell_every_s: float = 5.0


class Upkeep:
    """Runs beside the door of one judge."""

    def __init__(
        self, desk: JudgeDesk, store: CalibrationStore, options: UpkeepOptions, *, tell: Tell | None = None
    ) -> None:
        self._desk = desk
        self._store = store
        self._options = options
        self._tell = tell
        self._num_switches = 0
        self._tell_at = self._lead_at = self._probe_at = 0.0
        self.ladder: Ladder | None = None
        """Absent while another judge leads."""

    def add_window(self, groups: Sequence[SeenGroup]) -> None:
        """A window of the watch; only the leader's are learned from."""
        if self.ladder is not None:
            self.ladder.abstain_share = self._desk.watch.abstain_share
            self.ladder.add_groups(groups)

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; what was learned last is written down then."""
        try:
            while not stop.is_set():
                await self._survive(self.tick)
                if self._is_probe_due():
                    await self._survive(lambda: unless(stop, self._probe()))
                await sleep_or_stop(stop, self._options.every_s)
            await self._survive(self._write)
        finally:
            self._store.close()

    async def tick(self) -> None:
        """Everything that is due."""
        if self.ladder is None:
            await self._try_to_lead()
        ladder = self.ladder
        if ladder is None:
            return
        await self._follow_versions(ladder)
        await self._write()
        await self._tell_events(ladder)

    async def _survive(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except ForklightError as error:
            logger.warning("judge's upkeep is behind", extra={"reason": str(error)})

    async def _try_to_lead(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._lead_at:
            return
        self._lead_at = now + self._options.lead_every_s
        if not await asyncio.to_thread(self._store.try_to_lead):
            return
        book = await asyncio.to_thread(self._store.read)
        await asyncio.to_thread(self._desk.frozen.load)
        self.ladder = Ladder(book, judge=self._desk.judges.default.version)
        logger.info("this judge leads", extra={"calibration": book.current.name})

    async def _follow_versions(self, ladder: Ladder) -> None:
        """Tell the ladder what new policy versions are judged under."""
        keeper = self._desk.keeper
        if keeper.newest is None or (
            keeper.num_switches == self._num_switches and ladder.recalibrator.active.level is not Level.OFF
        ):
            return
        self._num_switches, version = keeper.num_switches, keeper.newest
        ladder.step_on(version, await keeper.of_version(version))

    async def _write(self) -> None:
        ladder = self.ladder
        if ladder is None:
            return
        await asyncio.to_thread(self._desk.frozen.keep)
        while ladder.to_log:
            await asyncio.to_thread(self._store.log, ladder.to_log[0])
            ladder.to_log.pop(0)
        if ladder.is_dirty:
            await self._keep(ladder)
        elif ladder.known.level is Level.OFF and await self._was_changed(ladder):
            await self._reload(ladder)

    async def _keep(self, ladder: Ladder) -> None:
        """Write down what the ladder remembers, and what it proposes if it may be had."""
        state = ladder.recalibrator.state
        if not await self._is_allowed(state.pending):
            level, known = ladder.known.level, ladder.known
            state = replace(state, pending=replace(state.pending, level=level) if level else known)
        current = await asyncio.to_thread(
            self._store.propose, state, ladder.memory, known=ladder.known.version
        )
        if current is None:
            await self._reload(ladder)
        else:
            ladder.proposed(current)

    async def _is_allowed(self, proposal: Calibration) -> bool:
        """Whether a proposal may hold: the run file allows measures, and the prompt it needs has passed."""
        if not self._options.recalibrate:
            return proposal.level is Level.NONE
        if proposal.variant is Variant.PLAIN or proposal.level is Level.OFF:
            return True
        engine = self._desk.judges.engine(None, proposal.variant)
        try:
            await self._desk.prover.prove(engine)
        except PreconditionError as error:
            logger.error("the neutral prompt is not used", extra={"reason": str(error)})
            return False
        return True

    async def _was_changed(self, ladder: Ladder) -> bool:
        book = await asyncio.to_thread(self._store.read)
        return book.current.version != ladder.known.version

    async def _reload(self, ladder: Ladder) -> None:
        """A person has changed what holds."""
        ladder.resume(await asyncio.to_thread(self._store.read))
        ladder.is_dirty = False

    def _is_probe_due(self) -> bool:
        """Enough windows have passed, and nobody waits for the judge: or so many that it may not matter."""
        ladder, every = self.ladder, self._options.probe_every
        if ladder is None or not every or ladder.recalibrator.active.level is Level.OFF:
            return False
        is_idle = self._desk.num_running == 0
        is_due = ladder.windows_since_probe >= (every if is_idle else 2 * every)
        is_allowed = asyncio.get_running_loop().time() >= self._probe_at
        return is_due and is_allowed and bool(self._desk.frozen.to_probe())

    async def _probe(self) -> None:
        """Judge the frozen answers and their paddings, as groups are judged now."""
        ladder = self.ladder
        if ladder is None:
            return
        self._probe_at = asyncio.get_running_loop().time() + self._options.probe_pause_s
        calibration = ladder.recalibrator.active
        raw: list[Row] = []
        served: list[Row] = []
        for mode, questions in self._desk.frozen.to_probe().items():
            engine = self._desk.judges.engine(mode, calibration.variant)
            rows = await score_padded(
                engine,
                questions,
                timeout_s=self._options.probe_timeout_s,
                at_once=self._options.probe_at_once,
            )
            raw += rows
            served += [
                corrected(row, question, mode, calibration)
                for row, question in zip(rows, questions, strict=True)
            ]
        plain, left = report_padding(raw), report_padding(served)
        if plain is not None and left is not None:
            ladder.add_padding(plain, left)

    async def _tell_events(self, ladder: Ladder) -> None:
        now = asyncio.get_running_loop().time()
        if self._tell is None or not ladder.to_tell or now < self._tell_at:
            return
        self._tell_at = now + self._options.tell_every_s
        events = list(ladder.to_tell)
        await self._tell(events)
        ladder.to_tell = ladder.to_tell[len(events) :]
        self._tell_at = 0.0


async def unless(stop: asyncio.Event, work: Coroutine[object, object, None]) -> None:
    """Do it, or leave it when told to stop."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        doing.cancel()
        stopping.cancel()
        await asyncio.wait({doing, stopping})


def corrected(row: Row, question: Question, mode: Mode, calibration: Calibration) -> Row:
    """Scores of a padded answer as they would be given out."""
    texts = [pad(question.candidate, factor) for factor in (1, *FACTORS)]
    return tuple(
        None if score is None else score - offset_of(calibration, mode, question.reference, text)
        for score, text in zip(row, texts, strict=True)
    )
