"""What generation remembers: a state per lightning layer, keys and values per softmax layer, by slot.

A slot is one sequence being generated. Lightning layers cost the same at any length; only softmax layers
(one in eight) grow with it. On a GPU a lightning layer remembers its state at the start of the open chunk of
64 tokens, rounded as prefill rounds it, and that chunk's keys and values: decode computes prefill's own bits.
Legend: A lightning layers, F softmax layers, S slots, L places, H heads, G key heads, P head size, C chunk.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_kernels import Backend, KeyPages, LightningMemory, backend_on
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.softmax_attention.blocks import KEY_GRID
from forklight_model.config import ModelConfig


class HybridCache:
    """Memory of `num_slots` sequences of up to `max_tokens` tokens each, prompt included."""

    def __init__(
        self,
        config: ModelConfig,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.num_slots, self.max_tokens = config, num_slots, max_tokens
        heads, key_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        lightning, softmax = config.lightning_layers, config.softmax_layers
        self.lightning_place = {layer: place for place, layer in enumerate(lightning)}
        self.softmax_place = {layer: place for place, layer in enumerate(softmax)}
        self.has_open_chunks = _is_for_triton(device, dtype)
        per_slot = (len(lightning), num_slots, heads)
        self.states_ASHPP = torch.zeros(
            *per_slot, head_dim, head_dim, dtype=_state_dtype(dtype), device=device
        )
        self._rounded_ASHPP: Tensor | None = None
        self._open_keys_ASHCP: Tensor | None = None
        self._open_values_ASHCP: Tensor | None = None
        if self.has_open_chunks:
            self._rounded_ASHPP = torch.zeros_like(self.states_ASHPP, dtype=dtype)
            self._open_keys_ASHCP = torch.zeros(*per_slot, MAX_CHUNK, head_dim, dtype=dtype, device=device)
            self._open_values_ASHCP = torch.zeros_like(self._open_keys_ASHCP)
        num_places = _num_places(max_tokens) if self.has_open_chunks else max_tokens
        key_shape = (len(softmax), num_slots, key_heads, num_places, head_dim)
        self.keys_FSGLP = torch.zeros(key_shape, dtype=dtype, device=device)
        self.values_FSGLP = torch.zeros(key_shape, dtype=dtype, device=device)
        self.lengths_S = torch.zeros(num_slots, dtype=torch.int64, device=device)
        """Tokens each slot has seen."""

    def lightning_memory(self, layer: int, slots: slice = slice(None)) -> LightningMemory:
        """One lightning layer's part, of all slots or a run of them."""
        place = self.lightning_place[layer]
        rounded, keys, values = (
            None if each is None else each[place, slots]
            for each in (self._rounded_ASHPP, self._open_keys_ASHCP, self._open_values_ASHCP)
        )
        return LightningMemory(
            states_SHDD=self.states_ASHPP[place, slots],
            rounded_SHDD=rounded,
            keys_SHCD=keys,
            values_SHCD=values,
        )

    def key_pages(self, layer: int, table_BN: Tensor | None, slots: slice = slice(None)) -> KeyPages:
        """One softmax layer's part: each slot is one page."""
        place = self.softmax_place[layer]
        return KeyPages(
            keys_PGLD=self.keys_FSGLP[place, slots],
            values_PGLD=self.values_FSGLP[place, slots],
            table_BN=table_BN,
        )

    @torch.inference_mode()
    def reset(self, slots: Sequence[int]) -> None:
        """Forget these slots' sequences."""
        index = self._index(slots)
        self.states_ASHPP[:, index] = 0
        if self._rounded_ASHPP is not None:
            self._rounded_ASHPP[:, index] = 0
        self.lengths_S[index] = 0

    @torch.inference_mode()
    def fork(self, from_slot: int, to_slots: Sequence[int]) -> None:
        """Continue one slot's sequence in others as well (a group's samples share their prompt's prefill)."""
        if from_slot in to_slots:
            raise InvalidInputError(f"slot {from_slot} cannot be forked onto itself")
        self._index([from_slot])
        length = int(self.lengths_S[from_slot])
        index = self._index(to_slots)
        for memory in (
            self.states_ASHPP,
            self._rounded_ASHPP,
            self._open_keys_ASHCP,
            self._open_values_ASHCP,
        ):
            if memory is not None:
                memory[:, index] = memory[:, from_slot, None].clone()
        for cached in (self.keys_FSGLP, self.values_FSGLP):
            cached[:, index, :, :length] = cached[:, from_slot, None, :, :length].clone()
        self.lengths_S[index] = length

    def _index(self, slots: Sequence[int]) -> torch.Tensor:
        for slot in slots:
            if not 0 <= slot < self.num_slots:
                raise InvalidInputError(
                    f"slot {slot} does not exist; the cache has slots 0 to {self.num_slots - 1}"
                )
        return torch.tensor(list(slots), dtype=torch.int64, device=self.lengths_S.device)


def cache_bytes(
    config: ModelConfig,
    num_slots: int,
    max_tokens: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> int:
    """Bytes a HybridCache of this shape takes."""
    num_places, head_elements = max_tokens, config.head_dim**2
    head_bytes = head_elements * _state_dtype(dtype).itemsize
    if _is_for_triton(device, dtype):
        num_places = _num_places(max_tokens)
        head_bytes += (head_elements + 2 * MAX_CHUNK * config.head_dim) * dtype.itemsize
    state_bytes = len(config.lightning_layers) * config.num_attention_heads * head_bytes
    place_elements = 2 * config.num_key_value_heads * config.head_dim
    place_bytes = len(config.softmax_layers) * num_places * place_elements * dtype.itemsize
    return num_slots * (state_bytes + place_bytes + torch.int64.itemsize)


def _is_for_triton(device: torch.device | str, dtype: torch.dtype) -> bool:
    return backend_on(torch.device(device), dtype) is Backend.TRITON


def _state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _num_places(max_tokens: int) -> int:
    """Whole blocks of keys, as a kernel reads them."""
    return -(-max_tokens // KEY_GRID.block) * KEY_GRID.block
