"""How the trainer begins, and begins again after going back: a checkpoint, the buffer's answer, a version."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from forklight.v1 import types_pb2
from forklight_core.errors import WeightsError
from forklight_trainer.assembly import LoopParts
from forklight_trainer.checkpoints.contents import CheckpointState
from forklight_trainer.checkpoints.roll_backs import AskedBy, RollBack
from forklight_trainer.checkpoints.store import Restored
from forklight_trainer.patience import Patience
from forklight_trainer.ports import RestorePoint
from forklight_trainer.position import Position
from forklight_trainer.steering.messages import roll_back_event, run_events
from forklight_trainer.steering.steering import Steering
from forklight_trainer.steps.records import truncate_records

log = logging.getLogger(__name__)


def take_over(parts: LoopParts, patience: Patience, steering: Steering) -> Position:
    """Go on from the newest checkpoint, or begin: tell the buffer what it knows, announce its version."""
    restored = parts.checkpoints.restore_latest(parts.engine, parts.run_id)
    at = _position(parts, restored)
    roll_backs = parts.checkpoints.roll_backs()
    steering.restore(at.steering, went_back_from=_alarmed_at(roll_backs))
    truncate_records(parts.steps_file, at.step)
    weights = _current_weights(parts, patience, at)
    point = RestorePoint(
        lineage=at.lineage,
        step=at.step,
        version=at.version,
        commits=restored.commits if restored is not None else (),
        window_tokens=steering.window,
        events=_events(at, steering, roll_backs),
    )
    reply = patience.call("restore the trainer at the buffer", lambda: parts.buffer.restore_trainer(point))
    at.lineage = reply.lineage
    patience.call("announce the version at the buffer", lambda: parts.buffer.announce_version(weights))
    place = {"step": at.step, "version": at.version, "lineage": at.lineage, "epoch": reply.epoch}
    counts = {"redelivered": reply.num_redelivered, "recovered": reply.num_recovered}
    log.info("trainer started", extra=place | counts)
    return at


def _alarmed_at(roll_backs: Sequence[RollBack]) -> list[int]:
    """Where alarms made the run go back; what persons ask for does not count against `max_roll_backs`."""
    return [each.from_step for each in roll_backs if each.asked_by == AskedBy.ALARM]


def _events(
    at: Position, steering: Steering, roll_backs: Sequence[RollBack]
) -> tuple[types_pb2.RunEvent, ...]:
    """What the restored steps may not have told yet, and that the run went back here."""
    per_version = at.updates_per_version
    told = run_events(
        steering.take_events(), lineage=at.lineage, updates_per_version=per_version, at=time.time()
    )
    last = [each for each in roll_backs[-1:] if each.to_step == at.step]
    return (*told, *(roll_back_event(each, updates_per_version=per_version) for each in last))


def _position(parts: LoopParts, restored: Restored | None) -> Position:
    per_version = parts.run_file.trainer.updates_per_version
    if restored is None:
        at = Position(updates_per_version=per_version)
        newest = max(parts.weights.list_versions(), default=0)
    else:
        state = restored.state
        _compare_contract(parts, state)
        at = Position(
            updates_per_version=per_version,
            step=state.step,
            lineage=state.lineage,
            steering=state.steering,
            schedule=state.schedule,
        )
        # A version is announced when its checkpoint is durable: only one left behind can have a newer one.
        newest = max(parts.checkpoints.list_left(), default=0) // per_version
    at.doubtful = range(at.version + 1, newest + 1)
    return at


def _compare_contract(parts: LoopParts, state: CheckpointState) -> None:
    """A newer release may compute otherwise; what rollout made under the old contract is refused then."""
    contract = parts.weights.contract
    if state.contract != contract:
        log.warning(
            "checkpoint comes from another numeric contract",
            extra={"checkpoint": state.contract, "trainer": contract, "step": state.step},
        )


def _current_weights(parts: LoopParts, patience: Patience, at: Position) -> types_pb2.WeightsRef:
    """The published version in memory; between two versions that is an older step's, on disk."""
    at.live_step = at.version * at.updates_per_version
    at.is_published = at.is_boundary
    if not at.is_boundary:
        try:
            return parts.weights.reference(at.version)
        except WeightsError as error:
            log.warning(
                "published weights are gone, newer ones take their place", extra={"reason": str(error)}
            )
            at.live_step = at.step
            at.doubtful = range(at.version, max(at.doubtful.stop, at.version + 1))
    return write_weights(parts, patience, at)


def write_weights(parts: LoopParts, patience: Patience, at: Position) -> types_pb2.WeightsRef:
    """The weights in memory, under the number of their version."""
    return patience.call(
        "publish weights",
        lambda: parts.weights.publish(parts.engine, version=at.version, step=at.step),
    )
