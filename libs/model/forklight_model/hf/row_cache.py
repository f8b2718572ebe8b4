"""Keys and values of running sequences, a row each, for decoding together in place.

All rows end at the same place, the clock: a step writes every row's new token there, without copying what is
there already. A row that joins is laid so that it ends at the clock; to transformers this is a batch padded
on the left, which every architecture with keys and values understands. Before the clock runs out of places,
all rows move to the front.
Legend: R rows, B rows in use, G key heads, C places, D head size, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from forklight_core.errors import ConfigError

if TYPE_CHECKING:
    from forklight_model.hf.policy import HfPolicy

FIRST_PLACES = 256
"""A cache begins with so many, and doubles."""
SLACK_PLACES = 256
"""Places beyond the longest sequence: so many steps at least between two moves to the front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWidths:
    """Numbers that a token leaves in one layer."""

    key_heads: int
    key_size: int
    value_heads: int
    value_size: int

    @property
    def num_values(self) -> int:
        return self.key_heads * self.key_size + self.value_heads * self.value_size


@dataclass(slots=True, eq=False)
class _Layer:
    keys_RGCD: Tensor
    values_RGCD: Tensor

    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.keys_RGCD, self.values_RGCD


@dataclass(slots=True, kw_only=True)
class RowCache:
    """Rows 0 to B-1 are in use. Plain numbers on the host, keys and values on the device."""

    widths: Sequence[LayerWidths]
    num_rows: int
    max_tokens: int
    """Of one row."""
    dtype: torch.dtype
    device: torch.device
    clock: int = 0
    """Every row's tokens lie before this place; the next ones are written to it."""
    starts: list[int] = field(default_factory=list)
    """First place of each row in use."""
    _layers: list[_Layer] = field(default_factory=list)

    @property
    def num_used(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row in use."""
        return [self.clock - start for start in self.starts]

    @property
    def num_places(self) -> int:
        return self._layers[0].keys_RGCD.shape[2] if self._layers else 0

    @property
    def first_place(self) -> int:
        """Of the longest row; nothing lies before it."""
        return min(self.starts, default=self.clock)

    @torch.inference_mode()
    def join(self, keys: Sequence[tuple[Tensor, Tensor]], length: int, number: int) -> int:
        """New rows, all fed these tokens ([G, L, D] keys and values of each layer); the first's number."""
        first = self.num_used
        if first + number > self.num_rows or not 0 < length <= self.max_tokens:
            raise AssertionError(f"{number} rows of {length} tokens join {first} of {self.num_rows} rows")
        if not self.starts:
            self.clock = 0
        if length > self.clock:
            self._move(length)
        self._make_places(self.clock)
        for layer, parts in zip(self._layers, keys, strict=True):
            for tensor, part_GLD in zip(layer.tensors(), parts, strict=True):
                tensor[first : first + number, :, self.clock - length : self.clock] = part_GLD
        self.starts += [self.clock - length] * number
        return first

    def open_place(self) -> None:
        """Make sure that there is a place at the clock."""
        if self.clock == self.max_tokens + SLACK_PLACES:
            self._move(self.clock - self.first_place)
        self._make_places(self.clock + 1)

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """The last row in use takes this one's place."""
        last = self.num_used - 1
        if row != last:
            span = slice(self.starts[last], self.clock)
            for layer in self._layers:
                for tensor in layer.tensors():
                    tensor[row, :, span] = tensor[last, :, span]
            self.starts[row] = self.starts[last]
        self.starts.pop()

    def write(self, layer: int, key_BG1D: Tensor, value_BG1D: Tensor) -> tuple[Tensor, Tensor]:
        """A token more of every row in use; all of theirs, [B, G, places, D]."""
        for tensor, new in zip(self._layers[layer].tensors(), (key_BG1D, value_BG1D), strict=True):
            tensor[: self.num_used, :, self.clock] = new.squeeze(2)
        span = slice(self.first_place, self.clock + 1)
        keys_RGCD, values_RGCD = self._layers[layer].tensors()
        return keys_RGCD[: self.num_used, :, span], values_RGCD[: self.num_used, :, span]

    def _make_places(self, number: int) -> None:
        if number <= self.num_places:
            return
        places = max(number, FIRST_PLACES, 2 * self.num_places)
        places = min(places, self.max_tokens + SLACK_PLACES)
        for layer, width in enumerate(self.widths):
            grown = _Layer(*self._empty(width, places))
            if layer == len(self._layers):
                self._layers.append(grown)
                continue
            for before, after in zip(self._layers[layer].tensors(), grown.tensors(), strict=True):
                after[:, :, : before.shape[2]] = before
            self._layers[layer] = grown  # the old one goes before the next one is made

    def _empty(self, width: LayerWidths, places: int) -> tuple[Tensor, Tensor]:
        """Zeros: what nobody wrote is masked, and must be a number all the same."""
        shapes = [(width.key_heads, width.key_size), (width.value_heads, width.value_size)]
        keys, values = (
            torch.zeros(self.num_rows, heads, places, size, dtype=self.dtype, device=self.device)
            for heads, size in shapes
        )
        return keys, values

    def _move(self, clock: int) -> None:
        """All rows end at another place."""
        low, shift = self.first_place, clock - self.clock
        if self.starts:
            self._make_places(clock)
            for layer in self._layers:
                for tensor in layer.tensors():
                    used = tensor[: self.num_used]
                    used[:, :, low + shift : clock] = used[:, :, low : self.clock].clone()
            self.starts = [start + shift for start in self.starts]
        self.clock = clock


def row_bytes(widths: Sequence[LayerWidths], max_tokens: int, dtype: torch.dtype) -> int:
    """Memory of one row at its longest."""
    return sum(width.num_values for width in widths) * (max_tokens + SLACK_PLACES) * dtype.itemsize


def layer_widths(policy: HfPolicy) -> list[LayerWidths]:
    """What one token leaves in each layer; ConfigError for layers that remember in other ways."""
    from transformers import DynamicCache

    check_layers(policy)
    filled = DynamicCache()
    with torch.inference_mode():
        policy.stack(
            input_ids=torch.zeros(1, 1, dtype=torch.int64, device=policy.device),
            past_key_values=filled,
            use_cache=True,
        )
    return [
        LayerWidths(
            key_heads=keys.shape[1],
            key_size=keys.shape[3],
            value_heads=values.shape[1],
            value_size=values.shape[3],
        )
        for keys, values in read_layers(filled)
    ]


def check_layers(policy: HfPolicy) -> None:
    """ConfigError for layers that remember something else than one key and one value a token."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    known = (DynamicLayer, DynamicSlidingWindowLayer)
    kinds = {type(layer) for layer in DynamicCache(config=policy.native.config).layers}
    chunked = "chunked_attention" in (getattr(policy.native.config, "layer_types", None) or ())
    if odd := sorted(kind.__name__ for kind in kinds if kind not in known) or (
        ["chunked attention"] if chunked else []
    ):
        raise ConfigError(
            f"{policy.config.architecture} has layers that remember otherwise than by keys and values "
            f'({", ".join(odd)}), which this engine does not: set rollout.engine = "vllm"'
        )


def read_layers(cache: Any) -> list[tuple[Tensor, Tensor]]:  # noqa: ANN401  # transformers' types are Any
    """Keys and values of every layer of a filled cache of transformers."""
    return [(layer.keys, layer.values) for layer in cache.layers]
