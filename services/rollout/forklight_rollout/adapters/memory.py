"""In-memory fakes, true to their ports: a buffer, and an engine whose tokens are a hash of prompt and seed.

For tests of everything around the engine, and for services that need trajectories without a model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from forklight.v1 import types_pb2
from forklight_core.errors import FencedError, WeightsError
from forklight_core.ids import sample_id
from forklight_core.numerics import CPU
from forklight_core.queues import Lease, WorkQueue
from forklight_rollout.manifest import PublishedWeights
from forklight_rollout.ports import EngineLimits, PromptStart, StepTokens, SubmitOutcome


@dataclass(slots=True)
class _Sequence:
    origin: bytes
    length: int
    num_tokens: int = 0


class MemoryEngine:
    """Draws uniformly from the vocabulary; each sequence meets the stop token after a length of its own."""

    def __init__(
        self, limits: EngineLimits, *, version: int = 0, stop_id: int = 0, mean_tokens: int = 8
    ) -> None:
        self._limits = limits
        self._version = version
        self._stop_id = stop_id
        self._mean_tokens = mean_tokens
        self._sequences: dict[int, _Sequence] = {}
        self._staged: int | None = None

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def version(self) -> int:
        return self._version

    @property
    def numeric_mode(self) -> types_pb2.NumericMode:
        return types_pb2.NumericMode(reason="an engine in memory computes nothing", device=CPU)

    @property
    def model_s(self) -> float:
        return 0.0

    def admit(self, prompt: PromptStart) -> None:
        for start in prompt.sequences:
            if start.key in self._sequences or len(self._sequences) >= self._limits.num_sequences:
                raise AssertionError(
                    f"sequence {start.key}: admitted twice, or beyond {self._limits.num_sequences}"
                )
            origin = hashlib.blake2b(repr((prompt.prompt_ids, start.seed)).encode(), digest_size=8).digest()
            length = 1 + int.from_bytes(origin, "big") % (2 * self._mean_tokens)
            self._sequences[start.key] = _Sequence(origin, length)

    def step(self) -> StepTokens:
        ids = [self._draw(sequence) for sequence in self._sequences.values()]
        logprobs = [-math.log(self._limits.vocabulary_size)] * len(ids)
        return StepTokens(keys=list(self._sequences), ids=ids, logprobs=logprobs, raw_logprobs=logprobs)

    def retire(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._sequences.pop(key, None)

    def stage(self, weights: PublishedWeights) -> None:
        self._staged = weights.version

    def swap(self) -> None:
        if self._staged is None:
            raise WeightsError("no weights are staged: call stage first")
        self._version, self._staged = self._staged, None

    def _draw(self, sequence: _Sequence) -> int:
        sequence.num_tokens += 1
        if sequence.num_tokens >= sequence.length:
            return self._stop_id
        counter = sequence.num_tokens.to_bytes(8, "big")
        drawn = int.from_bytes(hashlib.blake2b(sequence.origin + counter, digest_size=8).digest(), "big")
        token = drawn % (self._limits.vocabulary_size - 1)
        return token + (token >= self._stop_id)


@dataclass(slots=True)
class MemoryBuffer:
    """A buffer of some groups: remembers what it was given, refuses leases older than the newest it saw.

    With a queue it settles a task once nothing of its group is missing, as the real one does.
    """

    num_samples: int
    queue: WorkQueue | None = None
    accepted: dict[str, types_pb2.Trajectory] = field(default_factory=dict)
    terminal: set[str] = field(default_factory=set)
    fences: dict[str, int] = field(default_factory=dict)
    on_submit: Callable[[types_pb2.Trajectory], None] = field(default=lambda _: None)

    async def pending_samples(self, group_id: str, lease: Lease) -> list[int]:
        self._check(group_id, lease)
        return self._missing(group_id)

    async def submit(self, trajectory: types_pb2.Trajectory, lease: Lease) -> SubmitOutcome:
        self.on_submit(trajectory)
        name, group_id = trajectory.envelope.sample_id, trajectory.envelope.group_id
        if name in self.accepted:
            return SubmitOutcome.DUPLICATE
        self._check(group_id, lease)
        if name in self.terminal:
            return SubmitOutcome.DROPPED
        self.accepted[name] = trajectory
        if self.queue is not None and not self._missing(group_id):
            await self.queue.settle(lease)
        return SubmitOutcome.ACCEPTED

    def _missing(self, group_id: str) -> list[int]:
        done = {*self.accepted, *self.terminal}
        return [index for index in range(self.num_samples) if sample_id(group_id, index) not in done]

    def _check(self, group_id: str, lease: Lease) -> None:
        newest = self.fences.setdefault(group_id, lease.fence)
        if lease.fence < newest:
            raise FencedError(
                f"group {group_id}: fence {lease.fence} is older than {newest}; another pod holds it"
            )
        self.fences[group_id] = lease.fence
