"""Small real things for the reward tests: a pool, a jail, tasks with their blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from forklight.v1 import types_pb2
from forklight_core import ids
from forklight_core.blobs import BlobStore, MemoryBlobStore
from forklight_core.wire import SCHEMA_VERSION, TrajectoryArrays, pack_payload
from forklight_reward.sandbox.jail import Jail, open_jail
from forklight_reward.verifier.pool import MathPool

RUN_ID = "reward-test"


@pytest.fixture(scope="session")
def pool() -> Iterator[MathPool]:
    """One worker process for all tests."""
    made = MathPool()
    yield made
    made.close()


@pytest.fixture(scope="session")
def jail() -> Jail:
    """This machine's jails."""
    return open_jail()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMaker:
    """Makes scoring tasks and stores what they refer to."""

    blobs: BlobStore

    def put(self, data: bytes) -> types_pb2.BlobRef:
        reference = self.blobs.put(data)
        return types_pb2.BlobRef(id=reference.id, size_bytes=reference.size_bytes)

    def spec(self, **fields: str) -> types_pb2.TaskSpec:
        return types_pb2.TaskSpec(schema_version=SCHEMA_VERSION, **{"kind": "math", "gold": "42", **fields})

    def payload(self, sample: str, text: str) -> bytes:
        tokens = np.arange(4, dtype=np.int32)
        probabilities = np.zeros(4, dtype=np.float32)
        return pack_payload(
            TrajectoryArrays(
                sample_id=sample,
                prompt_ids=tokens,
                response_ids=tokens,
                logprobs=probabilities,
                raw_logprobs=probabilities,
                text=text,
                contract="test",
            )
        )

    def task(
        self, index: int, text: str, *, num_tokens: int = 4, spec: types_pb2.TaskSpec | None = None
    ) -> types_pb2.ScoringTask:
        """One sample's task; the default asks for 42."""
        group = ids.training_group_id(RUN_ID, index)
        sample = ids.sample_id(group, 0)
        envelope = types_pb2.Envelope(
            schema_version=SCHEMA_VERSION,
            run_id=RUN_ID,
            group_id=group,
            sample_id=sample,
            attempt=1,
            traceparent=ids.sample_traceparent(sample),
        )
        spec = spec or self.spec()
        trajectory = types_pb2.Trajectory(
            envelope=envelope,
            payload=self.put(self.payload(sample, text)),
            num_response_tokens=num_tokens,
            purpose=types_pb2.PURPOSE_TRAIN,
        )
        spec_ref = self.put(spec.SerializeToString())
        return types_pb2.ScoringTask(envelope=envelope, trajectory=trajectory, kind=spec.kind, spec=spec_ref)


@pytest.fixture
def tasks() -> TaskMaker:
    """Tasks over a blob store in memory."""
    return TaskMaker(blobs=MemoryBlobStore())


@pytest.fixture
def make_sample_id() -> Callable[[int], str]:
    """The id of the only sample of a task."""
    return lambda index: ids.sample_id(ids.training_group_id(RUN_ID, index), 0)
