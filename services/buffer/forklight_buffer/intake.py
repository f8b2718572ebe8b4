"""Trajectories and verdicts at the door: checked, deduplicated, fenced, one script each."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

from forklight.v1 import types_pb2
from forklight_buffer.context import Context
from forklight_buffer.live import Arrival, GroupFacts, Judgement, PendingSample
from forklight_buffer.ports import Accepted
from forklight_buffer.rows import trajectory_fields
from forklight_buffer.states import Outcome, Reason, State, Status, with_detail
from forklight_buffer.tasks import scoring_task
from forklight_core import ids
from forklight_core.errors import DataLossError, InvalidInputError, NotFoundError
from forklight_core.queues import Lease
from forklight_core.telemetry import current_traceparent
from forklight_core.wire import check_envelope

REMEMBERED_GROUPS = 4096


class Intake:
    """What rollout pods and the reward service say."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._facts: OrderedDict[str, GroupFacts] = OrderedDict()

    async def submit_trajectory(self, trajectory: types_pb2.Trajectory, lease: Lease) -> Outcome:
        """Accept a sample's trajectory, and with it reserve its place in the scoring queue."""
        sample = self._check_sample(trajectory.envelope)
        facts = await self._facts_of(sample)
        if facts is None:
            return await self._unknown(sample)
        _check_trajectory(trajectory, facts)
        fields = trajectory_fields(trajectory)
        arrival = Arrival(
            sample_id=sample,
            lease=lease,
            min_version=fields["min_version"],
            num_tokens=trajectory.num_response_tokens,
            num_bytes=trajectory.payload.size_bytes,
            cancelled=trajectory.finish_reason == types_pb2.FINISH_REASON_CANCELLED,
            trajectory=trajectory.SerializeToString(),
            scoring_task=scoring_task(
                trajectory, facts, current_traceparent() or ids.sample_traceparent(sample)
            ),
            payload_id=trajectory.payload.id,
        )
        try:
            accepted = await self._context.live.submit_trajectory(arrival)
        except NotFoundError:
            return await self._unknown(sample)
        if accepted.outcome is not Outcome.ACCEPTED:
            await discard_payload(self._context, sample, trajectory.payload.id)
        return self._moved(accepted)

    async def pending_samples(self, group_id: str, lease: Lease) -> list[PendingSample]:
        """What of a group still has to be generated, and how far it got."""
        return await self._context.live.pending_samples(group_id, lease)

    async def submit_verdict(self, verdict: types_pb2.Verdict, lease: Lease) -> Outcome:
        """Accept a sample's verdict: a reward, or why there is none."""
        sample = self._check_sample(verdict.envelope)
        judgement = await self._judge(sample, verdict, lease)
        try:
            accepted = await self._context.live.submit_verdict(judgement)
        except NotFoundError:
            if await asyncio.to_thread(self._context.ledger.read_sample, sample):
                return Outcome.DROPPED
            raise
        return self._moved(accepted)

    def _check_sample(self, envelope: types_pb2.Envelope) -> str:
        check_envelope(envelope, self._context.run_id)
        if ids.group_of(envelope.sample_id) != envelope.group_id:
            raise InvalidInputError(f"sample {envelope.sample_id} is not of group {envelope.group_id}")
        return envelope.sample_id

    async def _facts_of(self, sample: str) -> GroupFacts | None:
        """Remembered, because a group of 16 asks 16 times."""
        group_id = ids.group_of(sample)
        if group_id not in self._facts:
            group = await self._context.live.read_group(group_id)
            if group is None:
                return None
            self._facts[group_id] = group.facts
            while len(self._facts) > REMEMBERED_GROUPS:
                self._facts.popitem(last=False)
        return self._facts[group_id]

    async def _unknown(self, sample: str) -> Outcome:
        """A sample that is not open: dropped when it has ended, an error when nobody ever opened it."""
        if await asyncio.to_thread(self._context.ledger.read_sample, sample):
            return Outcome.DROPPED
        raise NotFoundError(f"sample {sample} was never opened in run {self._context.run_id}")

    def _moved(self, accepted: Accepted) -> Outcome:
        context = self._context
        if accepted.status is Status.READY:
            context.ready.notify()
        if accepted.status is not None:
            context.credit.notify()
            context.ended.notify()
        return accepted.outcome

    async def _judge(self, sample: str, verdict: types_pb2.Verdict, lease: Lease) -> Judgement:
        state, reason, reward = State.REWARD_FAILED, "", None
        if verdict.HasField("score") and not verdict.mask:
            reward = _finite(verdict.score, sample)
        elif verdict.status == types_pb2.VERDICT_STATUS_ABSTAIN:
            reason = with_detail(Reason.ABSTAIN, verdict.evidence)
        else:
            reason = with_detail(Reason.INFRA_ERROR, verdict.evidence)
            lost = await self._find_blob_loss(sample)
            if lost is not None:
                state, reason = State.INFRA_FAILED, with_detail(lost, verdict.evidence)
        return Judgement(
            sample_id=sample,
            lease=lease,
            verdict=verdict.SerializeToString(),
            reward=reward,
            state=state,
            reason=reason,
        )

    async def _find_blob_loss(self, sample: str) -> Reason | None:
        """Whether a failed verdict is the blob's fault: asked of the blob itself, not read from free text."""
        group = await self._context.live.read_group(ids.group_of(sample))
        index = ids.sample_index(sample)
        if group is None or index >= len(group.samples) or not group.samples[index].trajectory:
            return None
        trajectory = types_pb2.Trajectory.FromString(group.samples[index].trajectory)
        try:
            await asyncio.to_thread(self._context.blobs.get, trajectory.payload.id)
        except NotFoundError:
            return Reason.BLOB_LOST
        except DataLossError:
            return Reason.BLOB_CORRUPT
        return None


async def discard_payload(context: Context, sample: str, payload_id: str) -> None:
    """The blob of what was not taken is deleted later, unless it is the one of the sample's trajectory."""
    group = await context.live.read_group(ids.group_of(sample))
    kept = types_pb2.Trajectory()
    if group is not None:
        kept.ParseFromString(group.samples[ids.sample_index(sample)].trajectory)
    if kept.payload.id != payload_id:
        await asyncio.to_thread(context.ledger.discard_payloads, [payload_id], context.clock())


def _finite(score: float, sample: str) -> float:
    if not math.isfinite(score):
        raise InvalidInputError(f"the score of {sample} is {score}: send a finite number, or none")
    return score


def _check_trajectory(trajectory: types_pb2.Trajectory, group: GroupFacts) -> None:
    """Refuse what cannot be: an index outside the group, too many tokens, spans out of order."""
    sample = trajectory.envelope.sample_id
    if ids.sample_index(sample) >= group.size:
        raise InvalidInputError(f"{sample} is outside its group of {group.size}")
    if not trajectory.payload.id:
        raise InvalidInputError(f"the trajectory of {sample} names no payload blob: write the blob first")
    if trajectory.num_response_tokens > group.window:
        raise InvalidInputError(
            f"the trajectory of {sample} has {trajectory.num_response_tokens} "
            f"tokens, its window is {group.window}"
        )
    starts = [span.start for span in trajectory.version_spans]
    if not starts or starts[0] != 0 or starts != sorted(set(starts)):
        raise InvalidInputError(f"version spans of {sample} start at {starts}: they must ascend from 0")
