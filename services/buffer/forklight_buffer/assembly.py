"""Every part of one buffer, made and joined. Tests build it too, on a real server and any clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from forklight_buffer import metrics
from forklight_buffer.adapters.entries import RedisEntries
from forklight_buffer.adapters.redis import RedisLiveState
from forklight_buffer.adapters.scripts import Gate, ScriptRunner
from forklight_buffer.batches import Batches
from forklight_buffer.context import Context
from forklight_buffer.curriculum.curriculum import Curriculum
from forklight_buffer.curriculum.order import FileOrder, PromptOrder
from forklight_buffer.dead_letters import DeadLetters
from forklight_buffer.evaluation.last_round import LastRound
from forklight_buffer.evaluation.rounds import Evaluator
from forklight_buffer.inspection import Inspection
from forklight_buffer.inspection_lookup import Lookup
from forklight_buffer.inspection_search import SampleSearch
from forklight_buffer.intake import Intake
from forklight_buffer.journal import Journal
from forklight_buffer.keys import BufferKeys
from forklight_buffer.ledger import Ledger
from forklight_buffer.opener import Opener
from forklight_buffer.phases import PhaseControl
from forklight_buffer.ports import Clock, Entries
from forklight_buffer.prompts import PromptBook, read_prompts
from forklight_buffer.reaper import Reaper
from forklight_buffer.reconcile import Books, Reconciler
from forklight_buffer.restore import Restorer
from forklight_buffer.retention import Retention
from forklight_buffer.segments import Segments
from forklight_buffer.states import Phase, Purpose
from forklight_buffer.steering import Steering
from forklight_buffer.tasks import TaskMaker
from forklight_buffer.versions import Versions
from forklight_buffer.watchdog import Watchdog
from forklight_core.blobs import BlobStore
from forklight_core.errors import ConfigError
from forklight_core.queues import RunKeys
from forklight_core.runfile import RunFile
from forklight_core.telemetry import counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a buffer stands on."""

    redis: Redis
    ledger: Ledger
    blobs: BlobStore
    clock: Clock
    blob_margin_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One buffer, joined. `recover` it before anything else."""

    context: Context
    books: Books
    gate: Gate
    runner: ScriptRunner
    entries: Entries
    journal: Journal
    phases: PhaseControl
    reconciler: Reconciler
    order: PromptOrder
    opener: Opener
    intake: Intake
    segments: Segments
    batches: Batches
    restorer: Restorer
    evaluator: Evaluator
    versions: Versions
    reaper: Reaper
    dead_letters: DeadLetters
    watchdog: Watchdog
    retention: Retention
    inspection: Inspection
    lookup: Lookup
    steering: Steering
    last_round: LastRound

    async def recover(self) -> int:
        """Make Redis agree with the ledger and open the gate; returns how many groups had to be mended."""
        context = self.context
        async with context.turn:
            await asyncio.to_thread(self._check_owner)
            await self.runner.load()
            mended = await self.reconciler.reconcile()
            self.order.look_again()
            self.gate.open()
            counter(metrics.RECONCILIATIONS).add(1)
            control = await asyncio.to_thread(context.ledger.control)
            if control.phase is Phase.FINISHED:
                await self.phases.cancel_open()
        if mended:
            await context.record("reconciled", f"{mended} groups were opened or written again")
        self.journal.rounds_moved = True
        context.notify_all()
        return mended

    def _check_owner(self) -> None:
        """A ledger is of one run for ever."""
        owner = self.context.ledger.note("run_id")
        if owner not in ("", self.context.run_id):
            raise ConfigError(
                f"{self.context.run_folder} holds the ledger of run {owner!r}, this is run "
                f"{self.context.run_id!r}: give every run a folder of its own"
            )
        self.context.ledger.set_note("run_id", self.context.run_id)

    async def resume_after_start(self) -> None:
        """What the buffer itself had ordered is looked at again: the run file may have been mended."""
        context = self.context
        await self._note_prompts()
        async with context.turn:
            control = await asyncio.to_thread(context.ledger.control)
            has_steps_left = control.step < context.run_file.trainer.steps
            if control.automatic and control.phase is not Phase.RUNNING and has_steps_left:
                await self.phases.set_phase(Phase.RUNNING, "")

    async def _note_prompts(self) -> None:
        """Another prompt file goes on at the same position of its own order: people should know."""
        fingerprint = self.books[Purpose.TRAIN].fingerprint
        before = await asyncio.to_thread(self.context.ledger.note, "prompts")
        if before not in ("", fingerprint):
            path = self.context.run_file.prompts.train
            await self.context.record("prompts_changed", f"{path} has other prompts now")
        await asyncio.to_thread(self.context.ledger.set_note, "prompts", fingerprint)


def build(run_id: str, run_folder: Path, run_file: RunFile, outside: Outside) -> Buffer:
    """Join a buffer."""
    keys, gate = RunKeys(run_id), Gate()
    runner = ScriptRunner(outside.redis, BufferKeys(keys), gate)
    context = Context(
        run_id=run_id,
        run_folder=run_folder,
        run_file=run_file,
        live=RedisLiveState(runner, outside.clock),
        ledger=outside.ledger,
        blobs=outside.blobs,
        clock=outside.clock,
    )
    books, tasks = read_books(run_file), TaskMaker(run_id, run_file, outside.blobs)
    entries = RedisEntries(outside.redis, keys, lease_s=run_file.buffer.lease_s)
    journal = Journal(context)
    phases, steering = PhaseControl(context, journal), Steering(context)
    reconciler = Reconciler(context, RedisLiveState(runner, outside.clock, past_gate=True), books, tasks)
    order = make_order(context, steering, books)
    opener = Opener(context, phases, books, tasks, order=order)
    evaluator = Evaluator(context, phases, steering, books)
    last_round = LastRound(context, phases, evaluator)
    batches = Batches(context, journal, phases, last_round=last_round, steering=steering)
    watchdog = Watchdog(context, entries)
    return Buffer(
        context=context,
        books=books,
        gate=gate,
        runner=runner,
        entries=entries,
        journal=journal,
        phases=phases,
        reconciler=reconciler,
        order=order,
        opener=opener,
        intake=Intake(context),
        segments=Segments(context),
        batches=batches,
        restorer=Restorer(context, journal, reconciler, steering),
        evaluator=evaluator,
        versions=Versions(context, batches, evaluator, last_round),
        reaper=Reaper(context, entries),
        dead_letters=DeadLetters(context, opener),
        watchdog=watchdog,
        retention=Retention(context, margin_s=outside.blob_margin_s),
        inspection=Inspection(context, journal, watchdog, entries, steering=steering),
        lookup=Lookup(context, journal, books, SampleSearch(context, books)),
        steering=steering,
        last_round=last_round,
    )


def make_order(context: Context, steering: Steering, books: Books) -> PromptOrder:
    """How training prompts follow each other; ConfigError for a curriculum that leaves prompts unnamed."""
    book = books[Purpose.TRAIN]
    return Curriculum(context, steering, book) if context.run_file.curriculum.on else FileOrder(book)


def read_books(run_file: RunFile) -> Books:
    """The prompts of a run; ConfigError for bounds under which no batch can ever come about."""
    if not run_file.prompts.train:
        raise ConfigError(
            "prompts.train is empty: name a file of JSON lines of {id, prompt, kind, gold, spec}"
        )
    if run_file.buffer.dynamic_sampling and run_file.sampling.group_size == 1:
        raise ConfigError(
            "sampling.group_size is 1 and buffer.dynamic_sampling is on: the rewards of a group of one are "
            "always equal, so every group would be filtered; raise group_size or turn dynamic_sampling off"
        )
    train = read_prompts(
        Path(run_file.prompts.train), seed=run_file.run.seed, shuffle=run_file.prompts.shuffle
    )
    books: dict[Purpose, PromptBook] = {Purpose.TRAIN: train}
    if run_file.prompts.holdout:
        books[Purpose.EVALUATE] = read_prompts(Path(run_file.prompts.holdout), seed=0, shuffle=False)
    return books
