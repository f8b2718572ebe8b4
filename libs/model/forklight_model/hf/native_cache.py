"""A `RowCache` in the form that transformers asks for. Imports transformers; only generation imports this."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from forklight_model.hf.row_cache import RowCache


class NativeLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers' types are Any
    """One layer of the rows. What a sliding window hides is masked, not dropped."""

    is_sliding = False
    is_initialized = True

    def __init__(self, rows: RowCache, layer: int) -> None:
        super().__init__()
        self._rows, self._layer = rows, layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing to wait for."""

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *_: object,
        **__: object,
    ) -> tuple[Tensor, Tensor]:
        """Take in a token of every row; all keys and values so far."""
        return self._rows.write(self._layer, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Places that attention sees, counted from the first that is anybody's."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Of the longest row."""
        return self._rows.clock - self._rows.first_place

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1


class NativeRows(Cache):  # type: ignore[misc]
    """All layers."""

    def __init__(self, rows: RowCache) -> None:
        super().__init__(layers=[NativeLayer(rows, layer) for layer in range(len(rows.widths))])
