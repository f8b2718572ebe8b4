"""What generation remembers: a state per lightning layer, keys and values per softmax layer, by slot.

A slot is one sequence being generated. Lightning layers cost the same at any length; only softmax layers
(one in eight) grow with it.
Legend: A lightning layers, F softmax layers, S slots, L places, H heads, G key heads, P head size.
"""

from collections.abc import Sequence

import torch

from forklight_core.errors import InvalidInputError
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
        state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.states_ASHPP = torch.zeros(
            len(lightning), num_slots, heads, head_dim, head_dim, dtype=state_dtype, device=device
        )
        key_shape = (len(softmax), num_slots, key_heads, max_tokens, head_dim)
        self.keys_FSGLP = torch.zeros(key_shape, dtype=dtype, device=device)
        self.values_FSGLP = torch.zeros(key_shape, dtype=dtype, device=device)
        self.lengths_S = torch.zeros(num_slots, dtype=torch.int64, device=device)
        """Tokens each slot has seen."""

    @torch.inference_mode()
    def reset(self, slots: Sequence[int]) -> None:
        """Forget these slots' sequences."""
        index = self._index(slots)
        self.states_ASHPP[:, index] = 0
        self.lengths_S[index] = 0

    @torch.inference_mode()
    def fork(self, from_slot: int, to_slots: Sequence[int]) -> None:
        """Continue one slot's sequence in others as well (a group's samples share their prompt's prefill)."""
        if from_slot in to_slots:
            raise InvalidInputError(f"slot {from_slot} cannot be forked onto itself")
        self._index([from_slot])
        length = int(self.lengths_S[from_slot])
        index = self._index(to_slots)
        self.states_ASHPP[:, index] = self.states_ASHPP[:, from_slot, None]
        for cached in (self.keys_FSGLP, self.values_FSGLP):
            cached[:, index, :, :length] = cached[:, from_slot, None, :, :length]
        self.lengths_S[index] = length

    def _index(self, slots: Sequence[int]) -> torch.Tensor:
        for slot in slots:
            if not 0 <= slot < self.num_slots:
                raise InvalidInputError(
                    f"slot {slot} does not exist; the cache has slots 0 to {self.num_slots - 1}"
                )
        return torch.tensor(list(slots), dtype=torch.int64, device=self.lengths_S.device)


def cache_bytes(
    config: ModelConfig, num_slots: int, max_tokens: int, dtype: torch.dtype = torch.float32
) -> int:
    """Bytes a HybridCache of this shape takes."""
    state_elements = config.num_attention_heads * config.head_dim**2
    place_elements = 2 * config.num_key_value_heads * config.head_dim
    state_bytes = len(config.lightning_layers) * state_elements * max(4, dtype.itemsize)
    place_bytes = len(config.softmax_layers) * max_tokens * place_elements * dtype.itemsize
    return num_slots * (state_bytes + place_bytes + torch.int64.itemsize)
