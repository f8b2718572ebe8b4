"""The loop of the trainer: one method a stage, in the order that makes a crash cost at most one step.

A step is learned, then durable in a checkpoint together with the samples it learned from, then committed, and
only then may its weights become a version. A crash between any two of these is mended at the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core.blobs import BlobStore
from forklight_core.errors import InvalidInputError, PreconditionError, WeightsError
from forklight_core.runfile import RunFile
from forklight_core.telemetry import span, traceparent_of
from forklight_trainer import metrics
from forklight_trainer.batches.batch import TrainingBatch
from forklight_trainer.batches.fetch import LostSample, fetch_batch
from forklight_trainer.checkpoints.store import CheckpointState, CheckpointStore
from forklight_trainer.durable import staged_folder
from forklight_trainer.patience import Patience
from forklight_trainer.ports import BufferPort, RestorePoint, TrainEngine
from forklight_trainer.publishing.versions import WeightsStore
from forklight_trainer.status import Stage, StatusBoard
from forklight_trainer.steps.parity import Parity
from forklight_trainer.steps.records import append_record, build_record, truncate_records
from forklight_trainer.steps.step import PolicyState, StepOutcome, StepSettings, train_step
from forklight_trainer.tracing import STEP_SPAN, trace_samples

log = logging.getLogger(__name__)

PAUSED_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """What the loop is put together from."""

    run_id: str
    run_file: RunFile
    step_settings: StepSettings
    engine: TrainEngine
    buffer: BufferPort
    blobs: BlobStore
    checkpoints: CheckpointStore
    weights: WeightsStore
    steps_file: Path
    export_folder: Path
    board: StatusBoard
    stop: threading.Event
    lease_wait_s: float


@dataclass(slots=True, kw_only=True)
class Position:
    """Where the weights in memory stand."""

    step: int = 0
    lineage: str = ""
    is_published: bool = False
    """The weights are exactly the newest version."""
    pending: list[types_pb2.CommitRecord] = field(default_factory=list)
    """Learned, not yet acknowledged by the buffer."""
    num_unsaved: int = 0
    """Steps learned since the last checkpoint."""


class TrainingLoop:
    """Runs until the last step, the end of the run, or a stop."""

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts
        self._patience = Patience(parts.stop)
        self._at = Position()
        self._is_over = False
        self._restored_version = 0
        self._newest_before = 0

    @property
    def version(self) -> int:
        """Version these weights belong to."""
        return self._at.step // self._parts.run_file.trainer.updates_per_version

    def run(self) -> None:
        """Start, go through the steps, leave everything durable."""
        self._start()
        while not self._is_over and not self._parts.stop.is_set():
            if self._at.step < self._parts.run_file.trainer.steps:
                self._advance()
            else:
                self._is_over = True  # the buffer finishes the run with the last step's commit
        self._finish()

    def _advance(self) -> None:
        """One step, or one attempt at it."""
        message = self._lease()
        batch = self._fetch(message) if message is not None else None
        outcome = self._learn(batch) if batch is not None else None
        if outcome is None:
            return
        if self._must_save():
            self._save()
            self._commit()
        if self._is_boundary():
            self._publish()
        self._record(outcome)

    def _start(self) -> None:
        """Take over the newest checkpoint, tell the buffer what it knows, announce its version."""
        parts = self._parts
        restored = parts.checkpoints.restore_latest(parts.engine, parts.run_id)
        commits: tuple[types_pb2.CommitRecord, ...] = ()
        if restored is not None:
            self._at.step, self._at.lineage, commits = (
                restored.state.step,
                restored.state.lineage,
                restored.commits,
            )
            self._compare_contract(restored.state)
        truncate_records(parts.steps_file, self._at.step)
        self._restored_version = self.version
        self._newest_before = max(parts.weights.list_versions(), default=0)
        weights = self._current_weights()
        point = RestorePoint(
            lineage=self._at.lineage, step=self._at.step, version=self.version, commits=commits
        )
        reply = self._patience.call(
            "restore the trainer at the buffer", lambda: parts.buffer.restore_trainer(point)
        )
        self._at.lineage = reply.lineage
        self._announce(weights)
        self._report()
        position = {
            "step": self._at.step,
            "version": self.version,
            "lineage": reply.lineage,
            "epoch": reply.epoch,
        }
        counts = {"redelivered": reply.num_redelivered, "recovered": reply.num_recovered}
        log.info("trainer started", extra=position | counts)

    def _compare_contract(self, state: CheckpointState) -> None:
        """A newer release may compute otherwise; what rollout made under the old contract is refused then."""
        contract = self._parts.weights.contract
        if state.contract != contract:
            log.warning(
                "checkpoint comes from another numeric contract",
                extra={"checkpoint": state.contract, "trainer": contract, "step": state.step},
            )

    def _current_weights(self) -> types_pb2.WeightsRef:
        """The published version in memory; between two versions that is an older step's, on disk."""
        if not self._is_boundary():
            try:
                return self._parts.weights.reference(self.version)
            except WeightsError as error:
                log.warning(
                    "published weights are gone, newer ones take their place", extra={"reason": str(error)}
                )
                return self._write_weights()
        self._at.is_published = True
        return self._write_weights()

    def _write_weights(self) -> types_pb2.WeightsRef:
        parts = self._parts
        return self._patience.call(
            "publish weights",
            lambda: parts.weights.publish(parts.engine, version=self.version, step=self._at.step),
        )

    def _announce(self, weights: types_pb2.WeightsRef) -> None:
        self._patience.call(
            "announce the version at the buffer", lambda: self._parts.buffer.announce_version(weights)
        )

    def _lease(self) -> types_pb2.Batch | None:
        """The next step's batch; None when there is none yet or the run is paused or over."""
        parts = self._parts
        if parts.board.status.stage is not Stage.PAUSED:
            parts.board.enter(Stage.LEASE)
        step = self._at.step + 1
        reply = self._patience.call(
            f"lease the batch of step {step} from the buffer",
            lambda: parts.buffer.lease_batch(step, parts.lease_wait_s),
        )
        if reply.HasField("batch"):
            parts.board.set_problem("")
            return reply.batch
        self._is_over = reply.phase == buffer_pb2.RUN_PHASE_FINISHED
        is_paused = reply.phase == buffer_pb2.RUN_PHASE_PAUSED
        parts.board.enter(Stage.PAUSED if is_paused else Stage.LEASE)
        if is_paused:
            parts.stop.wait(PAUSED_POLL_S)
        return None

    def _fetch(self, message: types_pb2.Batch) -> TrainingBatch | None:
        """The batch with its arrays; None when samples are lost, which the buffer is told."""
        parts = self._parts
        parts.board.enter(Stage.FETCH)
        try:
            if message.step != self._at.step + 1:
                raise PreconditionError(
                    f"leased the batch of step {message.step}, asked for step {self._at.step + 1}"
                )
            fetched = self._patience.call(
                f"read the blobs of {message.batch_id}",
                lambda: fetch_batch(message, parts.blobs, parts.run_id),
            )
        except (InvalidInputError, PreconditionError) as error:
            self._pause(error)
            return None
        for lost in fetched.lost:
            self._report_lost(lost)
        return fetched.batch

    def _report_lost(self, lost: LostSample) -> None:
        log.error("sample is lost", extra={"sample_id": lost.sample_id, "reason": lost.reason})
        metrics.count_lost_sample()
        self._patience.call(
            "report a lost sample to the buffer",
            lambda: self._parts.buffer.report_lost_sample(lost.sample_id, lost.reason),
        )

    def _learn(self, batch: TrainingBatch) -> StepOutcome | None:
        """One optimizer update; None when the batch was refused, which pauses the run."""
        parts = self._parts
        parts.board.enter(Stage.TRAIN)
        policy = PolicyState(
            version=self.version,
            is_published=self._at.is_published and not self._is_doubtful(self.version),
            contract=parts.weights.contract,
            find_version=lambda version: (
                None if self._is_doubtful(version) else parts.weights.find_version(version)
            ),
        )
        start_s = time.time()
        with span(STEP_SPAN, attributes={"rl.step": batch.step, "rl.version": self.version}) as running:
            try:
                outcome = train_step(parts.engine, batch, parts.step_settings, policy)
            except (InvalidInputError, PreconditionError) as error:
                self._pause(error)
                return None
            trace_samples(
                batch,
                outcome.advantages,
                start_s=start_s,
                end_s=time.time(),
                step_traceparent=traceparent_of(running),
            )
        self._take_note(batch)
        return outcome

    def _is_doubtful(self, version: int) -> bool:
        """Whether samples may carry this number for weights that were lost with a torn checkpoint."""
        return self._restored_version < version <= self._newest_before

    def _take_note(self, batch: TrainingBatch) -> None:
        """The weights now contain this batch."""
        self._at.step = batch.step
        self._at.is_published = False
        self._at.num_unsaved += 1
        sample_ids = [sample.sample_id for sample in batch.samples]
        self._at.pending.append(
            types_pb2.CommitRecord(
                lineage=self._at.lineage, step=batch.step, batch_id=batch.batch_id, sample_ids=sample_ids
            )
        )

    def _pause(self, error: Exception) -> None:
        """Stop stepping until a person says RUNNING again; the batch stays leased and is tried again then."""
        log.error("run paused", extra={"error_type": type(error).__name__, "reason": str(error)})
        metrics.count_pause(error)
        self._parts.board.set_problem(f"{type(error).__name__}: {error}")
        self._parts.board.enter(Stage.PAUSED)
        reason = f"trainer at step {self._at.step + 1}: {error}"
        self._patience.call(
            "pause the run at the buffer",
            lambda: self._parts.buffer.set_phase(buffer_pb2.RUN_PHASE_PAUSED, reason),
        )

    def _is_boundary(self) -> bool:
        return self._at.step % self._parts.run_file.trainer.updates_per_version == 0

    def _must_save(self) -> bool:
        """Every so many steps, at the last one, and before a version: a version must be restorable."""
        trainer = self._parts.run_file.trainer
        is_due = self._at.num_unsaved >= trainer.checkpoint_every_steps or self._at.step >= trainer.steps
        return is_due or self._is_boundary() or self._parts.stop.is_set()

    def _save(self) -> None:
        parts = self._parts
        parts.board.enter(Stage.CHECKPOINT)
        state = CheckpointState(
            run_id=parts.run_id,
            lineage=self._at.lineage,
            step=self._at.step,
            version=self.version,
            contract=parts.weights.contract,
        )
        self._patience.call(
            "write a checkpoint", lambda: parts.checkpoints.save(parts.engine, state, self._at.pending)
        )
        self._at.num_unsaved = 0

    def _commit(self) -> None:
        """Until the buffer has entered it; a stop may end the wait, then the next start enters it."""
        self._parts.board.enter(Stage.COMMIT)
        self._patience.call(
            "commit steps at the buffer", lambda: self._parts.buffer.commit_steps(self._at.pending)
        )
        self._at.pending.clear()

    def _publish(self) -> None:
        self._parts.board.enter(Stage.PUBLISH)
        self._announce(self._write_weights())
        self._at.is_published = True

    def _record(self, outcome: StepOutcome) -> None:
        """The line of this step, and its metrics."""
        self._parts.board.enter(Stage.LEASE)
        self._report()
        record = build_record(
            outcome, step=self._at.step, version=self.version, seconds=self._parts.board.take_seconds()
        )
        append_record(self._parts.steps_file, record)
        metrics.record_step(record)
        self._note_parity(outcome.parity)

    def _note_parity(self, parity: Parity) -> None:
        """Unequal log-probs belong to tolerance mode; in parity mode somebody should look."""
        if parity.num_unequal is None:
            return
        board = self._parts.board
        board.count_compared(parity.num_tokens, parity.num_unequal)
        mode = board.status.numeric_mode
        if parity.num_unequal and mode is not None and mode.is_parity:
            log.warning(
                "log-probs differ in parity mode",
                extra={
                    "unequal": parity.num_unequal,
                    "compared": parity.num_tokens,
                    "version": parity.version,
                    "max_dp": parity.max_dp,
                },
            )

    def _report(self) -> None:
        self._parts.board.report(step=self._at.step, version=self.version, lineage=self._at.lineage)

    def _finish(self) -> None:
        """Leave nothing that only memory knows; a run that is over leaves its model."""
        if self._at.num_unsaved:
            self._save()
        if self._at.pending:
            self._commit()
        if self._is_over:
            self._patience.call("export the final model", self._export)
        self._parts.board.enter(Stage.DONE)
        log.info(
            "trainer stopped",
            extra={"step": self._at.step, "version": self.version, "run_is_over": self._is_over},
        )

    def _export(self) -> None:
        parts = self._parts
        with staged_folder(parts.export_folder) as staging:
            parts.engine.save_published(staging)
            parts.weights.tokenizer.save(staging)
