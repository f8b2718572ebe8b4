"""An engine without a model that takes its time: tokens come at a rate, responses have lengths of a
distribution. True to the engine's port: its tokens are a hash of prompt, seed and position.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
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

BLOCK = 64
"""Tokens that one hash gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How an engine generates."""

    tokens_per_s: float
    """Of each sequence; they do not slow each other down."""
    mean_tokens: float
    sigma: float = 0.5
    """Of the logarithm of lengths: 0 is all the same, 1 a long tail."""
    tick_s: float = 0.5
    """A step takes so long, and brings what has come due meanwhile."""


@dataclass(slots=True)
class Drawing:
    """One sequence."""

    origin: bytes
    end: EndRules
    length: int
    num_tokens: int
    num_certain: int
    due: float = 0.0
    block: bytes = b""
    block_number: int = -1


class SleepingEngine:
    """Owned by one thread; only `slow_down` may be called from another."""

    def __init__(self, limits: EngineLimits, manner: Manner, *, version: int = 0) -> None:
        self._limits, self.manner = limits, manner
        self._version = version
        self._drawings: dict[int, Drawing] = {}
        self._staged: int | None = None
        self._speed = 1.0
        self._last = time.monotonic()
        self._others: dict[frozenset[int], list[int]] = {}
        self.num_drawn = 0
        """Tokens so far, those that nobody kept included."""

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
        return types_pb2.NumericMode(reason="a sleeping engine computes nothing", device=CPU)

    @property
    def model_s(self) -> float:
        return 0.0

    def slow_down(self, factor: float) -> None:
        """From now on so many times slower."""
        self._speed = 1.0 / factor

    def admit(self, prompt: PromptStart) -> None:
        for start in prompt.sequences:
            if start.key in self._drawings or len(self._drawings) >= self._limits.num_sequences:
                raise AssertionError(
                    f"sequence {start.key}: admitted twice, or beyond {self._limits.num_sequences}"
                )
            origin = hashlib.blake2b(repr((prompt.prompt_ids, start.seed)).encode(), digest_size=16).digest()
            self._drawings[start.key] = Drawing(
                origin=origin,
                end=prompt.end,
                length=self._length(origin),
                num_tokens=len(start.prefix_ids),
                num_certain=start.num_certain,
            )

    def step(self) -> StepTokens:
        """Sleep out the tick, then draw what has come due."""
        time.sleep(max(0.0, self._last + self.manner.tick_s - time.monotonic()))
        now = time.monotonic()
        # After a pause of the whole process a real engine would not have gone on meanwhile.
        passed, self._last = min(now - self._last, 4 * self.manner.tick_s), now
        keys: list[int] = []
        ids: list[int] = []
        reasons: list[FinishReason | None] = []
        for key in list(self._drawings):
            self._draw(key, passed, keys, ids, reasons)
        self.num_drawn += len(keys)
        logprobs = [-math.log(self._limits.vocabulary_size)] * len(keys)
        return StepTokens(
            version=self._version,
            keys=keys,
            ids=ids,
            logprobs=logprobs,
            raw_logprobs=logprobs,
            reasons=reasons,
        )

    def _draw(
        self,
        key: int,
        passed_s: float,
        keys: list[int],
        ids: list[int],
        reasons: list[FinishReason | None],
    ) -> None:
        drawing = self._drawings[key]
        drawing.due += passed_s * self.manner.tokens_per_s * self._speed
        while drawing.due >= 1.0:
            drawing.due -= 1.0
            token = self._token(drawing)
            reason = self._advance(drawing, token)
            keys.append(key)
            ids.append(token)
            reasons.append(reason)
            if reason is not None:
                del self._drawings[key]
                return

    def retire(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._drawings.pop(key, None)

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

    def _length(self, origin: bytes) -> int:
        """Where a response meets its stop token, whoever generates it: lognormal with the mean asked for."""
        sigma = self.manner.sigma
        mu = math.log(self.manner.mean_tokens) - sigma * sigma / 2
        return max(1, round(random.Random(origin).lognormvariate(mu, sigma)))

    def _token(self, drawing: Drawing) -> int:
        stop_ids = drawing.end.stop_ids
        if stop_ids and drawing.num_tokens + 1 >= drawing.length:
            return min(stop_ids)
        number, place = divmod(drawing.num_tokens, BLOCK)
        if number != drawing.block_number:
            seed = drawing.origin + number.to_bytes(8, "big")
            drawing.block, drawing.block_number = hashlib.blake2b(seed, digest_size=BLOCK).digest(), number
        others = self._others.get(stop_ids)
        if others is None:
            others = [token for token in range(self._limits.vocabulary_size) if token not in stop_ids]
            self._others[stop_ids] = others
        return others[drawing.block[place] % len(others)]

    def _advance(self, drawing: Drawing, token: int) -> FinishReason | None:
        """The end rules, in their order."""
        end = drawing.end
        drawing.num_tokens += 1
        if token in end.stop_ids:
            return FinishReason.STOP
        if end.repetition_tokens:
            is_certain = -math.log(self._limits.vocabulary_size) > math.log(end.repetition_probability)
            drawing.num_certain = drawing.num_certain + 1 if is_certain else 0
            if drawing.num_certain >= end.repetition_tokens:
                return FinishReason.REPETITION
        return FinishReason.LENGTH if drawing.num_tokens >= end.max_new_tokens else None
