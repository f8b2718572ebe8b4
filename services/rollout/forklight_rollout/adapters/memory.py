"""An engine in memory, true to its port: its tokens are a hash of prompt and seed.

For tests of everything around the engine, and for services that need trajectories without a model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_core.errors import WeightsError
from forklight_core.numerics import CPU
from forklight_rollout.ports import (
    EndRules,
    EngineLimits,
    EngineTraits,
    FinishReason,
    PromptStart,
    StepTokens,
)
from forklight_rollout.weights.manifest import PublishedWeights


@dataclass(slots=True)
class MemorySequence:
    """A sequence of a MemoryEngine."""

    origin: bytes
    end: EndRules
    length: int
    """Where it meets a stop token."""
    num_tokens: int
    num_certain: int


class MemoryEngine:
    """Draws uniformly from the vocabulary; each sequence meets a stop token after a length of its own."""

    def __init__(self, limits: EngineLimits, *, version: int = 0, mean_tokens: int = 8) -> None:
        self._limits = limits
        self._version = version
        self._mean_tokens = mean_tokens
        self._sequences: dict[int, MemorySequence] = {}
        self._staged: int | None = None

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def traits(self) -> EngineTraits:
        return EngineTraits(exact_kernels=(), is_batch_invariant=True)

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
            self._sequences[start.key] = MemorySequence(
                origin=origin,
                end=prompt.end,
                length=1 + int.from_bytes(origin, "big") % (2 * self._mean_tokens),
                num_tokens=len(start.prefix_ids),
                num_certain=start.num_certain,
            )

    def step(self) -> StepTokens:
        drawn = {key: self.draw(sequence) for key, sequence in self._sequences.items()}
        reasons = {key: _advance(self._sequences[key], *token) for key, token in drawn.items()}
        self.retire([key for key, reason in reasons.items() if reason is not None])
        logprobs = [logprob for _, logprob in drawn.values()]
        return StepTokens(
            version=self._version,
            keys=list(drawn),
            ids=[token for token, _ in drawn.values()],
            logprobs=logprobs,
            raw_logprobs=logprobs,
            reasons=list(reasons.values()),
        )

    def retire(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._sequences.pop(key, None)

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        return [-math.log(self._limits.vocabulary_size)] * (len(ids) - 1)

    def stage(self, weights: PublishedWeights) -> None:
        self._staged = weights.version

    def swap(self) -> None:
        if self._staged is None:
            raise WeightsError("no weights are staged: call stage first")
        self._version, self._staged = self._staged, None

    def close(self) -> None:
        """Nothing is held."""

    def draw(self, sequence: MemorySequence) -> tuple[int, float]:
        """The next token of a sequence and its log-prob."""
        logprob = -math.log(self._limits.vocabulary_size)
        stop_ids = sorted(sequence.end.stop_ids)
        if stop_ids and sequence.num_tokens + 1 >= sequence.length:
            return stop_ids[0], logprob
        counter = (sequence.num_tokens + 1).to_bytes(8, "big")
        drawn = int.from_bytes(hashlib.blake2b(sequence.origin + counter, digest_size=8).digest(), "big")
        others = [
            token for token in range(self._limits.vocabulary_size) if token not in sequence.end.stop_ids
        ]
        return others[drawn % len(others)], logprob


def _advance(sequence: MemorySequence, token: int, raw_logprob: float) -> FinishReason | None:
    """The end rules, in their order."""
    end = sequence.end
    sequence.num_tokens += 1
    is_certain = bool(end.repetition_tokens) and raw_logprob > math.log(end.repetition_probability)
    sequence.num_certain = sequence.num_certain + 1 if is_certain else 0
    if token in end.stop_ids:
        return FinishReason.STOP
    if end.repetition_tokens and sequence.num_certain >= end.repetition_tokens:
        return FinishReason.REPETITION
    return FinishReason.LENGTH if sequence.num_tokens >= end.max_new_tokens else None
