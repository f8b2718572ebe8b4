"""Which demonstrations a step learns from. Pure: a place in the order is one number, the seed says the rest.

Epochs follow each other without a gap, each in an order of its own; a step takes the next so many
demonstrations, or as many as fit its tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forklight_core.runfile.schema import SftSection
from forklight_trainer.batches.batch import Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRules:
    """How large a step is."""

    batch_size: int
    tokens_per_step: int | None
    """Takes the place of `batch_size`."""


class Order:
    """All demonstrations a stage learns from, one after another."""

    def __init__(
        self,
        lengths: npt.NDArray[np.int32],
        rules: StepRules,
        *,
        seed: int,
        shuffles: bool,
        epochs: float | None,
    ) -> None:
        self._lengths, self._rules, self._seed, self._shuffles = lengths, rules, seed, shuffles
        self.num_all = math.inf if epochs is None else max(1, round(epochs * len(lengths)))
        """Demonstrations in all; without end when only steps are counted."""
        self._epoch = -1
        self._numbers = self._ends = np.empty(0, dtype=np.int64)

    def take(self, place: int) -> Int64Array:
        """Numbers of the demonstrations of the step that begins at `place`; empty when the order is over."""
        parts: list[Int64Array] = []
        taken = tokens = 0
        while place + taken < self.num_all:
            epoch, start = divmod(place + taken, len(self._lengths))
            self._enter(epoch)
            end = int(min(len(self._lengths), start + self.num_all - place - taken))
            stop = self._find_stop(start, end, taken, tokens)
            parts.append(self._numbers[start:stop])
            taken += stop - start
            tokens += int(self._lengths[parts[-1]].sum())
            if stop < end:
                break
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def count_steps(self) -> int:
        """Steps until the order is over, which it must be some time."""
        place = num_steps = 0
        while place < self.num_all:
            place += len(self.take(place))
            num_steps += 1
        return num_steps

    def _enter(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._numbers = epoch, self._epoch_order(epoch)
            self._ends = np.cumsum(self._lengths[self._numbers], dtype=np.int64)

    def _find_stop(self, start: int, end: int, taken: int, tokens: int) -> int:
        """Where in the epoch the step is full, with so much of it taken in the epochs before."""
        if self._rules.tokens_per_step is None:
            return min(end, start + self._rules.batch_size - taken)
        before = int(self._ends[start - 1]) if start else 0
        room = before + self._rules.tokens_per_step - tokens
        fitting = int(np.searchsorted(self._ends, room, side="right"))
        return min(end, max(fitting, start if taken else start + 1))  # one that fits no step is a step

    def _epoch_order(self, epoch: int) -> Int64Array:
        if not self._shuffles:
            return np.arange(len(self._lengths), dtype=np.int64)
        # Raw bits, sorted: numpy promises these over its releases, and not what Generator.permutation gives.
        bits = np.random.PCG64([self._seed, epoch]).random_raw(len(self._lengths))
        return np.argsort(np.asarray(bits), kind="stable").astype(np.int64)


def order_of(sft: SftSection, lengths: npt.NDArray[np.int32], seed: int) -> Order:
    """The order that a run file asks for."""
    rules = StepRules(batch_size=sft.batch_size, tokens_per_step=sft.tokens_per_step)
    return Order(lengths, rules, seed=seed, shuffles=sft.shuffle, epochs=sft.epochs)


def count_steps(sft: SftSection, order: Order) -> int:
    """Optimizer steps of the stage."""
    return sft.steps if sft.epochs is None else order.count_steps()
