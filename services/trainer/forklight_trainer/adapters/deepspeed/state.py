"""This process's share of the training state: out for a checkpoint, and back from any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forklight_model.checkpoint import check_shapes
from forklight_model.parts import PartsReader, StateKey
from forklight_model.stretches import WeightSource
from forklight_trainer.adapters.deepspeed.fragments import (
    STEP,
    Fragment,
    optimizer_state,
    own_fragments,
    refresh_weights,
    set_optimizer_step,
)
from forklight_trainer.adapters.deepspeed.gang import Gang
from forklight_trainer.adapters.deepspeed.layout import Layout
from forklight_trainer.checkpoints.parts import StatePart
from forklight_trainer.checkpoints.random_state import restore_random_state

MOMENTS = (StateKey.EXP_AVG, StateKey.EXP_AVG_SQ)
READ_AT_ONCE = 1 << 24
"""Numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this process's weight lies in the whole one, flattened."""

    shape: tuple[int, ...]
    """Of the whole."""
    start: int = 0


class RankState:
    """Of one rank of an engine; `places` says where this process's weights lie in the whole ones."""

    def __init__(self, engine: Any, layout: Layout, gang: Gang, places: Mapping[str, Place]) -> None:  # noqa: ANN401
        self._engine, self._stage, self._gang, self._places = engine, layout.zero_stage, gang, places

    @property
    def adam_step(self) -> int:
        """How many updates were made: as many for every weight."""
        return int(
            max((float(optimizer_state(self._engine, each.flat)[STEP]) for each in self._own()), default=0)
        )

    def parts(self) -> Iterator[StatePart]:
        """This process's stretches, not copied."""
        has_moments = self.adam_step > 0
        for fragment in self._own():
            place = self._places[fragment.name]
            state = optimizer_state(self._engine, fragment.flat)
            held = {StateKey.WEIGHT: fragment.weight}
            if has_moments:
                held |= {key: fragment.cut(state[key]) for key in MOMENTS}
            for key, values in held.items():
                yield StatePart(
                    name=fragment.name,
                    key=key,
                    shape=place.shape,
                    start=place.start + fragment.start,
                    values=values,
                )

    @torch.no_grad()
    def start_from(self, weights: WeightSource) -> None:
        """The first weights: exact ones, for DeepSpeed's own are rounded. All processes call it."""
        for fragment in self._own():
            self._copy(partial(weights.read, fragment.name), fragment, fragment.weight)
        refresh_weights(self._engine, self._stage)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Take over a checkpoint, whatever wrote it. All processes call it."""
        with PartsReader(folder) as reader:
            check_shapes(reader, {name: place.shape for name, place in self._places.items()})
            for fragment in self._own():
                self._restore(reader, fragment)
            set_optimizer_step(self._engine, self._stage, float(reader.adam_step))
            restore_random_state(reader, self._gang.device, rank=self._gang.rank, num_ranks=self._gang.size)
        refresh_weights(self._engine, self._stage)

    def _restore(self, reader: PartsReader, fragment: Fragment) -> None:
        state = optimizer_state(self._engine, fragment.flat)
        self._copy(partial(reader.read, fragment.name, StateKey.WEIGHT), fragment, fragment.weight)
        for key in MOMENTS:
            target = fragment.cut(state[key])
            if reader.has_moments:
                self._copy(partial(reader.read, fragment.name, key), fragment, target)
            else:
                target.zero_()

    def _copy(self, read: Callable[[int, int], Tensor], fragment: Fragment, target: Tensor) -> None:
        """Piece by piece: under ZeRO-1 and -2 a stretch may be a whole layer's experts."""
        start = self._places[fragment.name].start + fragment.start
        for at in range(0, fragment.length, READ_AT_ONCE):
            num = min(READ_AT_ONCE, fragment.length - at)
            target.narrow(0, at, num).copy_(read(start + at, num))

    def _own(self) -> Iterator[Fragment]:
        return own_fragments(self._engine, self._stage)
