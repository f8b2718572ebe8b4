"""One finished sample on its way out: its payload to the blob store, its header to the buffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobRef
from forklight_core.ids import sample_id
from forklight_rollout.generation.groups import FinishedSample
from forklight_rollout.leases.blob_calls import BlobCalls
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.leases.held_groups import HeldGroup, HeldGroups
from forklight_rollout.leases.lease_keeper import LeaseKeeper
from forklight_rollout.leases.trajectory import build_payload, build_trajectory, emit_generate_span
from forklight_rollout.ports import SubmitOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What trajectories say of where they come from."""

    pod: str
    contract: str
    decode: Callable[[list[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Hands samples over. FencedError: the group is not ours any more; other errors: it could not be done."""

    blobs: BlobCalls
    buffer: BufferCalls
    held: HeldGroups
    keeper: LeaseKeeper
    provenance: Provenance

    async def submit(self, sample: FinishedSample, group: HeldGroup) -> SubmitOutcome:
        """Store the payload, submit the header, note what became of it."""
        pod = self.provenance.pod
        traceparent = emit_generate_span(sample, pod=pod)
        payload = await self._put(sample, group)
        outcome = await self.buffer.submit(
            lambda: build_trajectory(sample, group, payload=payload, pod=pod, traceparent=traceparent), group
        )
        self.held.close_sample(group, sample.sample_id)
        if outcome is SubmitOutcome.DROPPED and group.open_samples:
            await self._cancel_unwanted(group)
        return outcome

    async def _put(self, sample: FinishedSample, group: HeldGroup) -> BlobRef:
        """A full disk is waited out while the group is ours: the sample is safe in memory."""
        provenance = self.provenance
        if group.task.purpose != types_pb2.PURPOSE_TRAIN:
            sample = replace(
                sample, response=replace(sample.response, routing=None)
            )  # nobody scores it again

        def build() -> bytes:
            return build_payload(sample, decode=provenance.decode, contract=provenance.contract)

        return await self.blobs.put(build, group)

    async def _cancel_unwanted(self, group: HeldGroup) -> None:
        """One sample was terminal already; ask which others are, and stop those."""
        pending = await self.buffer.pending_samples(group)
        wanted = {sample_id(group.group_id, index) for index in pending}
        unwanted = group.open_samples - wanted
        await self.keeper.cancel(unwanted)
        for sample in unwanted:
            self.held.close_sample(group, sample)
