"""Messages the buffer puts on the queues. What a right answer is goes into a blob that only the scoring task
names.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from forklight.v1 import types_pb2
from forklight_buffer.live import GroupFacts, Opening
from forklight_buffer.prompts import Prompt
from forklight_buffer.records import Ending, GroupRow
from forklight_buffer.states import Purpose
from forklight_core import ids
from forklight_core.blobs import BlobRef, BlobStore
from forklight_core.runfile import RunFile
from forklight_core.wire import SCHEMA_VERSION

SHELL = "shell"
"""The tool that needs files."""


class TaskMaker:
    """Makes the task of a group; the spec blob of a prompt is written once."""

    def __init__(self, run_id: str, run_file: RunFile, blobs: BlobStore) -> None:
        self._run_id = run_id
        self._run_file = run_file
        self._blobs = blobs
        self._specs: dict[tuple[Purpose, str], BlobRef] = {}

    async def make_opening(self, row: GroupRow, prompt: Prompt, endings: Sequence[Ending] = ()) -> Opening:
        """A group ready to be opened."""
        spec = await self._spec_of(row.purpose, prompt)
        task = types_pb2.GenerationTask(
            envelope=types_pb2.Envelope(
                schema_version=SCHEMA_VERSION,
                run_id=self._run_id,
                group_id=row.group_id,
                traceparent=ids.sample_traceparent(ids.sample_id(row.group_id, 0)),
            ),
            prompt_id=row.prompt_id,
            prompt=prompt.text,
            sampling=self._sampling(row),
            purpose=row.purpose.wire,
            opened_version=row.opened_version,
            tools=await self._tools(prompt),
        )
        return Opening(
            row=row,
            task=task.SerializeToString(),
            spec_id=spec.id,
            spec_bytes=spec.size_bytes,
            endings=tuple(endings),
        )

    def _sampling(self, row: GroupRow) -> types_pb2.Sampling:
        sampling, evaluation = self._run_file.sampling, self._run_file.evaluation
        train = row.purpose is Purpose.TRAIN
        return types_pb2.Sampling(
            num_samples=row.size,
            max_new_tokens=row.window,
            temperature=sampling.temperature if train else evaluation.temperature,
            top_p=sampling.top_p,
            seed=group_seed(self._run_file.run.seed, row.group_id),
            repetition_probability=sampling.repetition_probability,
            repetition_tokens=sampling.repetition_tokens,
        )

    async def _tools(self, prompt: Prompt) -> types_pb2.Tools | None:
        """The run's tools that the prompt does not leave out; None when that is none."""
        tools = self._run_file.tools
        names = [name for name in tools.names if prompt.tools is None or name in prompt.tools]
        names = [name for name in names if name != SHELL or prompt.workspace_json]
        if not names:
            return None
        return types_pb2.Tools(
            names=names,
            max_calls=tools.max_calls,
            max_output_tokens=tools.max_output_tokens,
            timeout_s=tools.timeout_s,
            workspace=await self._workspace_of(prompt) if SHELL in names else None,
        )

    async def _workspace_of(self, prompt: Prompt) -> types_pb2.BlobRef:
        blob = await asyncio.to_thread(self._blobs.put, prompt.workspace_json.encode())
        return types_pb2.BlobRef(id=blob.id, size_bytes=blob.size_bytes)

    async def _spec_of(self, purpose: Purpose, prompt: Prompt) -> BlobRef:
        key = (purpose, prompt.prompt_id)
        if key not in self._specs:
            spec = types_pb2.TaskSpec(
                schema_version=SCHEMA_VERSION,
                kind=prompt.kind,
                prompt=prompt.text,
                gold=prompt.gold,
                spec_json=prompt.spec_json,
                source=prompt.traits.source,
            )
            self._specs[key] = await asyncio.to_thread(
                self._blobs.put, spec.SerializeToString(deterministic=True)
            )
        return self._specs[key]


def group_seed(run_seed: int, group_id: str) -> int:
    """Seed of a group: the same when it is opened again; leaves room for `seed + i` in 64 bits."""
    digest = hashlib.blake2b(f"{run_seed}/{group_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def scoring_task(trajectory: types_pb2.Trajectory, group: GroupFacts, traceparent: str) -> bytes:
    """A trajectory to judge, with the reference to its answer."""
    envelope = types_pb2.Envelope()
    envelope.CopyFrom(trajectory.envelope)
    envelope.traceparent = traceparent
    return types_pb2.ScoringTask(
        envelope=envelope,
        trajectory=trajectory,
        kind=group.kind,
        spec=types_pb2.BlobRef(id=group.spec_id, size_bytes=group.spec_bytes),
        window_tokens=group.window,
        opened_version=group.opened_version,
    ).SerializeToString()
