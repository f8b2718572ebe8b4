"""The nouns of one optimizer step: batch, group, sample. No torch here.

Legend: P prompt tokens, R response tokens, D of them that the policy drew; a tool put in the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forklight.v1 import types_pb2
from forklight_core.errors import DataLossError
from forklight_core.wire import RoutingArrays, TrajectoryArrays

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSample:
    """One scored trajectory, as the optimizer sees it."""

    sample_id: str
    prompt_ids: Int32Array  # [P]
    response_ids: Int32Array  # [R]
    behaviour_logprobs: Float32Array  # [R] recorded by rollout at the sampling temperature
    versions: Int64Array  # [R] policy version that sampled each token
    reward: float
    traceparent: str = ""
    contract: str = ""
    pod: str = ""
    finish_reason: types_pb2.FinishReason = types_pb2.FINISH_REASON_UNSPECIFIED
    routing: RoutingArrays | None = None  # of all tokens but the last
    drawn: BoolArray | None = None  # [R] False where the token was put in; None: all were drawn

    @property
    def places_D(self) -> Int64Array:
        """Where in the response the drawn tokens are: what is learned from and measured."""
        if self.drawn is None:
            return np.arange(len(self.response_ids), dtype=np.int64)
        return np.flatnonzero(self.drawn)

    @property
    def num_drawn(self) -> int:
        """D: tokens that count in the loss and in its normaliser."""
        return len(self.response_ids) if self.drawn is None else int(self.drawn.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingGroup:
    """The scored samples of one prompt."""

    group_id: str
    samples: tuple[TrainingSample, ...]

    @property
    def rewards(self) -> list[float]:
        return [sample.reward for sample in self.samples]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """What one optimizer step learns from."""

    batch_id: str
    step: int
    groups: tuple[TrainingGroup, ...]

    @property
    def samples(self) -> list[TrainingSample]:
        return [sample for group in self.groups for sample in group.samples]


def build_sample(message: types_pb2.BatchSample, arrays: TrajectoryArrays) -> TrainingSample:
    """Join a sample's header with its arrays; refuse a pair that does not belong together."""
    trajectory = message.trajectory
    sample_id = trajectory.envelope.sample_id
    promised = (sample_id, trajectory.num_prompt_tokens, trajectory.num_response_tokens)
    found = (arrays.sample_id, len(arrays.prompt_ids), len(arrays.response_ids))
    if promised != found:
        raise DataLossError(
            f"payload {trajectory.payload.id} is not the one of sample {sample_id}: its header promises "
            f"(sample, prompt tokens, response tokens) = {promised}, the blob holds {found}"
        )
    return TrainingSample(
        sample_id=sample_id,
        prompt_ids=arrays.prompt_ids,
        response_ids=arrays.response_ids,
        behaviour_logprobs=arrays.logprobs,
        versions=expand_versions(trajectory.version_spans, len(arrays.response_ids), sample_id),
        reward=message.reward,
        traceparent=trajectory.envelope.traceparent,
        contract=arrays.contract,
        pod=trajectory.pod,
        finish_reason=trajectory.finish_reason,
        routing=arrays.routing,
        drawn=None if arrays.drawn is None else arrays.drawn.astype(np.bool_),
    )


def expand_versions(spans: Iterable[types_pb2.VersionSpan], num_tokens: int, sample_id: str) -> Int64Array:
    """The policy version of every response token."""
    ordered: Sequence[types_pb2.VersionSpan] = list(spans)
    starts = [span.start for span in ordered]
    if num_tokens and (
        not starts or starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= num_tokens
    ):
        raise DataLossError(
            f"sample {sample_id} has version spans starting at {starts} over {num_tokens} tokens: they must "
            "start at 0, rise, and stay inside the response"
        )
    versions = np.zeros(num_tokens, dtype=np.int64)
    for span in ordered:
        versions[span.start :] = span.version
    return versions
