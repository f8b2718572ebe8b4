"""Weights by stretches of whole parameters, for a process that keeps a part of each: drawn, or of a folder.

No model is built, and little more is held than the stretch that is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import SafetensorError
from torch import Tensor

from forklight_core.errors import CheckpointError, InvalidInputError
from forklight_model.checkpoint import (
    check_published,
    check_shapes,
    find_shards,
    parameter_shapes,
    weightless_model,
)
from forklight_model.config import ModelConfig, load_config
from forklight_model.mapped_files import MappedFiles
from forklight_model.model import HybridModel
from forklight_model.moe import parameter_of
from forklight_model.parts import PartsReader, StateKey, has_parts

DRAWN_AT_ONCE = 1 << 22
"""Numbers of a chunk of fresh weights."""
LEAST_DRAWN = 16
"""torch transforms so many uniform numbers together, and the last so many of a tensor by themselves."""


class WeightSource(Protocol):
    """Parameters are asked for in the model's order, and the stretches of one from its first to its last."""

    def read(self, name: str, start: int, length: int) -> Tensor:
        """So many elements of a whole parameter, flat, fp32 or as they lie in a file."""
        ...


class HeldWeights:
    """Of a model that is there: all of its parameters, or a process's experts."""

    def __init__(self, model: HybridModel) -> None:
        self._flat = {
            name: (weight.detach().flatten(), model.whole_place(name)[1])
            for name, weight in model.named_parameters()
        }

    def read(self, name: str, start: int, length: int) -> Tensor:
        flat, first = self._flat[name]
        return flat.narrow(0, start - first, length)


class FreshWeights:
    """The numbers that `HybridModel.initialize` gives a whole fp32 model on a CPU, drawn in the same order.

    What nobody asks for is drawn as well and let go.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        self._chunks = _drawn(config, generator)
        self._name, self._start, self._values = "", 0, torch.empty(0)

    def read(self, name: str, start: int, length: int) -> Tensor:
        found = torch.empty(length)
        at = start
        while at < start + length:
            self._go_to(name, at)
            low = at - self._start
            num = min(start + length - at, len(self._values) - low)
            found[at - start : at - start + num] = self._values[low : low + num]
            at += num
        return found

    def _go_to(self, name: str, at: int) -> None:
        while self._name != name or at >= self._start + len(self._values):
            drawn = next(self._chunks, None)
            if drawn is None:
                break
            self._name, self._start, self._values = drawn
        if self._name != name or not self._start <= at < self._start + len(self._values):
            raise InvalidInputError(
                f"element {at} of {name} is asked for after later ones were drawn, or there is none: "
                "ask in the order of the model's parameters"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """A published tensor, and where it lies in its parameter."""

    name: str
    path: Path
    start: int
    length: int
    width: int
    """Elements of a row, as the parameter has them."""
    is_transposed: bool


class FolderWeights:
    """Of published safetensors: of each tensor, the rows or columns that the stretch has."""

    def __init__(self, directory: str | Path) -> None:
        self._files = MappedFiles()
        directory = Path(directory)
        files = find_shards(directory)
        views = weightless_model(load_config(directory)).state_dict()
        check_published(files, {name: tuple(view.shape) for name, view in views.items()}, str(directory))
        path_of = {name: path for path, names in files.items() for name in names}
        tensors: dict[str, list[_Published]] = defaultdict(list)
        for name, view in views.items():
            tensors[parameter_of(name)].append(_published(name, path_of[name], view))
        self._tensors = dict(tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, name: str, start: int, length: int) -> Tensor:
        found = torch.empty(length)
        for tensor in self._tensors[name]:
            low, high = max(start, tensor.start), min(start + length, tensor.start + tensor.length)
            if low < high:
                found[low - start : high - start] = self._cut(tensor, low - tensor.start, high - tensor.start)
                self._files.copied((high - low) * found.itemsize)
        return found

    def _cut(self, tensor: _Published, low: int, high: int) -> Tensor:
        """Whole rows around these elements, and of them the elements."""
        first, last = low // tensor.width, -(-high // tensor.width)
        try:
            opened = self._files.open(tensor.path).get_slice(tensor.name)  # type: ignore[no-untyped-call]
            rows: Tensor = opened[:, first:last].t() if tensor.is_transposed else opened[first:last]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{tensor.path} is truncated or corrupt ({error}); fetch or write it again"
            ) from error
        return rows.flatten()[low - first * tensor.width : high - first * tensor.width]


class _PartsWeights:
    """Of the state that a trainer's ranks wrote."""

    def __init__(self, reader: PartsReader) -> None:
        self._reader = reader

    def read(self, name: str, start: int, length: int) -> Tensor:
        return self._reader.read(name, StateKey.WEIGHT, start, length)


@contextmanager
def open_weights(directory: str | Path) -> Iterator[WeightSource]:
    """Of a model folder, or a trainer's checkpoint. All that headers tell is checked first."""
    if not has_parts(Path(directory)):
        with FolderWeights(directory) as published:
            yield published
        return
    with PartsReader(directory) as reader:
        check_shapes(reader, parameter_shapes(load_config(directory)))
        yield _PartsWeights(reader)


def _published(name: str, path: Path, view: Tensor) -> _Published:
    is_transposed = not view.is_contiguous()
    width = prod(view.shape[1:])
    return _Published(
        name=name,
        path=path,
        start=int(view.storage_offset()),
        length=view.numel(),
        width=view.shape[0] if is_transposed else width,
        is_transposed=is_transposed,
    )


def _drawn(config: ModelConfig, generator: torch.Generator) -> Iterator[tuple[str, int, Tensor]]:
    """Every parameter in order: name, where a chunk of it starts, and the chunk, good until the next."""
    held = torch.empty(DRAWN_AT_ONCE + LEAST_DRAWN)
    shapes: Mapping[str, tuple[int, ...]] = parameter_shapes(config)
    for name, shape in shapes.items():
        start, total = 0, prod(shape)
        while start < total:
            num = min(DRAWN_AT_ONCE, total - start)
            if total - start - num < LEAST_DRAWN:
                num = total - start
            values = held[:num]
            if len(shape) == 1:
                values.fill_(1.0)
            else:
                values.normal_(0.0, config.initializer_range, generator=generator)
            yield name, start, values
            start += num
