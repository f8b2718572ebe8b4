"""The loop of the trainer: one method a stage, in the order that makes a crash cost at most a few steps.

A step is learned, copied, and made durable with the samples it learned from while the next one is computed;
then it is committed, and only then may its weights become a version (`saver.py`). Before an update the loop
makes sure that no more than `trainer.checkpoint_every_steps` steps are at risk. A crash between any two of
these is mended at the next start (`restart.py`), and so is going back.
"""

from __future__ import annotations

import logging
import time

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core.errors import InvalidInputError, PreconditionError
from forklight_core.telemetry import span, traceparent_of
from forklight_trainer import metrics
from forklight_trainer.assembly import LoopParts
from forklight_trainer.batches.batch import TrainingBatch
from forklight_trainer.batches.fetch import LostSample, fetch_batch
from forklight_trainer.checkpoints.contents import CheckpointState
from forklight_trainer.checkpoints.roll_backs import RollBack
from forklight_trainer.durable import staged_folder
from forklight_trainer.going_back import Request, RollBackRequests
from forklight_trainer.patience import Patience
from forklight_trainer.ports import Snapshot
from forklight_trainer.position import Position
from forklight_trainer.publishing.folders import export_model
from forklight_trainer.restart import take_over, write_weights
from forklight_trainer.saver import News, Saver
from forklight_trainer.saving import SaveRequests
from forklight_trainer.status import Stage
from forklight_trainer.steering.events import LEVELS, ActionKind
from forklight_trainer.steering.figures import read_figures
from forklight_trainer.steering.messages import run_events
from forklight_trainer.steering.steering import Steering
from forklight_trainer.steps.parity import Parity
from forklight_trainer.steps.records import append_record, build_record, record_content
from forklight_trainer.steps.step import PolicyState, StepOutcome, train_step
from forklight_trainer.tracing import STEP_SPAN, trace_samples

log = logging.getLogger(__name__)

PAUSED_POLL_S = 0.5


class TrainingLoop:
    """Runs until the last step, the end of the run, or a stop."""

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts
        self._patience = Patience(parts.stop)
        self._saver = Saver(parts)
        self._at = Position(updates_per_version=parts.run_file.trainer.updates_per_version)
        self._steering = Steering(parts.run_file)
        self.roll_backs = RollBackRequests(parts, self._saver)
        self.saves = SaveRequests(parts, self._saver)
        self._is_over = False

    @property
    def version(self) -> int:
        """Version these weights belong to."""
        return self._at.version

    def run(self) -> None:
        """Start, go through the steps, leave everything durable."""
        try:
            self._start()
            while not self._parts.stop.is_set():
                self._saver.check()
                if (request := self.roll_backs.pending) is not None:
                    self._roll_back(request)
                elif self.saves.take():
                    self._save_pending()
                elif not self._is_over and self._at.step < self._parts.run_file.trainer.steps:
                    self._advance()
                elif self.roll_backs.close():
                    self.saves.close()
                    self._is_over = True  # the buffer finishes the run with the last step's commit
                    break
            self._finish()
        finally:
            self._saver.close()

    def request_roll_back(self, step: int, reason: str) -> None:
        """Go on from the newest checkpoint up to `step`, before the next step begins."""
        self.roll_backs.demand(step, reason)

    def _advance(self) -> None:
        """One step, or one attempt at it."""
        message = self._lease()
        batch = self._fetch(message) if message is not None else None
        outcome = self._learn(batch) if batch is not None else None
        if outcome is None:
            return
        snapshot = self._copy() if self._must_save() else None
        self._record(outcome)
        if snapshot is not None:
            self._save(snapshot)
        if self._at.is_boundary:
            self._publish()
        self._act()

    def _start(self) -> None:
        """Take over the newest checkpoint and what belongs to it."""
        self._at = take_over(self._parts, self._patience, self._steering)
        self._saver.begin_at(self._at.step, live_step=self._at.live_step)
        self._is_over = False
        self._report()
        self.roll_backs.open()
        self.saves.open()
        self._act()

    def _act(self) -> None:
        """What an alarm asks for, now or before a crash came in between."""
        action = self._steering.take_action()
        if action.kind is ActionKind.PAUSE:
            self._pause(PreconditionError(action.reason))
        elif action.kind is ActionKind.ROLL_BACK:
            self.request_roll_back(action.step, action.reason)

    def _roll_back(self, request: Request) -> None:
        """Give up what was learned since an older checkpoint; the buffer delivers it again on a new line."""
        step, reason = request.step, request.reason
        self._saver.wait()
        checkpoints, here = self._parts.checkpoints, self._at.step
        target = checkpoints.find_sound(most=step)
        if target is None:
            self._saver.pinned_step = None
            self.roll_backs.open()
            self._pause(
                PreconditionError(
                    f"asked to go back to step {step} ({reason}), and no sound checkpoint is as old: the "
                    f"oldest is {min(checkpoints.list_steps(), default='none')}; set "
                    "checkpoints.keep_every_steps or keep_last so that there is one"
                )
            )
            return
        log.warning("going back", extra={"from_step": here, "to_step": target, "reason": reason})
        metrics.count_roll_back()
        checkpoints.go_back(
            RollBack(
                from_step=here,
                to_step=target,
                reason=reason,
                at=round(time.time(), 3),
                asked_by=request.asked_by,
            )
        )
        self._start()

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
            is_published=self._at.is_published and self.version not in self._at.doubtful,
            contract=parts.weights.contract,
            find_version=lambda version: (
                None if version in self._at.doubtful else parts.weights.find_version(version)
            ),
            window=self._steering.window,
        )
        start_s = time.time()
        with span(STEP_SPAN, attributes={"rl.step": batch.step, "rl.version": self.version}) as running:
            try:
                outcome = train_step(
                    parts.engine, batch, parts.step_settings, policy, before_update=self._limit_risk
                )
            except (InvalidInputError, PreconditionError) as error:
                self._saver.check()  # what went wrong there is nothing of the batch
                self._pause(error)
                return None
            trace_samples(
                batch,
                outcome.advantages,
                start_s=start_s,
                end_s=time.time(),
                step_traceparent=traceparent_of(running),
            )
        self._at.take_note(batch)
        return outcome

    def _limit_risk(self) -> None:
        """With the update that follows, a crash may take `checkpoint_every_steps` steps and no more."""
        num_at_risk = self._at.step + 1 - self._saver.durable_step
        if num_at_risk > self._parts.run_file.trainer.checkpoint_every_steps:
            self._saver.wait()

    def _pause(self, error: Exception) -> None:
        """Stop stepping until a person says RUNNING again; the batch stays leased and is tried again then."""
        log.error("run paused", extra={"error_type": type(error).__name__, "reason": str(error)})
        metrics.count_pause(error)
        if self._at.step >= self._parts.run_file.trainer.steps:
            return  # an alarm rang at the last step: nothing is left to pause
        self._parts.board.set_problem(f"{type(error).__name__}: {error}")
        self._parts.board.enter(Stage.PAUSED)
        reason = f"trainer at step {self._at.step + 1}: {error}"
        self._patience.call(
            "pause the run at the buffer",
            lambda: self._parts.buffer.set_phase(buffer_pb2.RUN_PHASE_PAUSED, reason),
        )

    def _must_save(self) -> bool:
        """Every so many steps, at the last one, and before a version: a version must be restorable."""
        trainer = self._parts.run_file.trainer
        is_due = len(self._at.pending) >= trainer.checkpoint_every_steps or self._at.step >= trainer.steps
        return is_due or self._at.is_boundary or self._parts.stop.is_set()

    def _save_pending(self) -> None:
        """What only memory knows goes into a checkpoint, though none is due."""
        if self._at.pending:
            self._save(self._copy())

    def _copy(self) -> Snapshot:
        """The state as it is now, in host memory; the checkpoint before must be written first."""
        self._parts.board.enter(Stage.CHECKPOINT)
        self._saver.wait()
        return self._parts.engine.snapshot()

    def _save(self, snapshot: Snapshot) -> None:
        """Have the copy written and its samples committed, while the loop goes on."""
        parts, at = self._parts, self._at
        state = CheckpointState(
            run_id=parts.run_id,
            lineage=at.lineage,
            step=at.step,
            version=at.version,
            contract=parts.weights.contract,
            steering=self._steering.state(),
            schedule=at.schedule,
        )
        events = run_events(
            self._steering.take_events(),
            lineage=at.lineage,
            updates_per_version=at.updates_per_version,
            at=time.time(),
        )
        news = News(records=at.take_pending(), window_tokens=self._steering.window, events=events)
        self._saver.save(snapshot, state, news)
        self._wait_if_asked()

    def _publish(self) -> None:
        """Write the version; rollout hears of it when its checkpoint is durable and committed."""
        self._parts.board.enter(Stage.PUBLISH)
        weights = write_weights(self._parts, self._patience, self._at)
        self._saver.announce(weights, step=self._at.step)
        self._at.is_published = True
        self._wait_if_asked()

    def _wait_if_asked(self) -> None:
        if not self._parts.run_file.checkpoints.asynchronous:
            self._saver.wait()

    def _record(self, outcome: StepOutcome) -> None:
        """The line of this step, its metrics, and what they say to the window and the alarms."""
        self._parts.board.enter(Stage.LEASE)
        self._report()
        record = build_record(
            outcome,
            step=self._at.step,
            version=self.version,
            window=self._steering.window,
            seconds=self._parts.board.take_seconds(),
        )
        append_record(self._parts.steps_file, record)
        metrics.record_step(record)
        self._note_parity(outcome.parity)
        for event in self._steering.observe(read_figures(record_content(record))).events:
            log.log(LEVELS[event.severity], event.title, extra={"step": event.step, **event.evidence})
        metrics.record_alarms(self._steering.ringing)

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
        self._save_pending()
        self._saver.wait()
        if self._is_over:
            self._patience.call("export the final model", self._export)
        self._parts.board.enter(Stage.DONE)
        if (forgotten := self.roll_backs.pending) is not None:
            log.warning("told to stop before going back", extra={"request": str(forgotten)})
        log.info(
            "trainer stopped",
            extra={"step": self._at.step, "version": self.version, "run_is_over": self._is_over},
        )

    def _export(self) -> None:
        parts = self._parts
        with staged_folder(parts.export_folder) as staging:
            export_model(parts.engine, staging)
            parts.weights.tokenizer.save(staging)
