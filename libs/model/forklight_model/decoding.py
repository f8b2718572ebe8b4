"""One sequence, token by token: the smallest use of prefill and decode.

Legend: B rows (one here), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from forklight_model.cache import HybridCache
from forklight_model.inference import PromptPieces, decode, prefill
from forklight_model.model import HybridModel


class Decoding(Protocol):
    """Feeds one sequence to a policy."""

    def begin(self, prompt_ids: Sequence[int]) -> Tensor:
        """Feed the prompt; fp32 logits [1, V] of what follows."""
        ...

    def feed(self, ids_B: Tensor) -> Tensor:
        """Feed one token more; fp32 logits [1, V] of what follows."""
        ...


class HybridDecoding:
    """Over a `HybridCache`."""

    def __init__(self, model: HybridModel, max_tokens: int) -> None:
        self._model = model
        dtype = model.lm_head.weight.dtype
        self._cache = HybridCache(model.config, num_slots=1, max_tokens=max_tokens, dtype=dtype)

    def begin(self, prompt_ids: Sequence[int]) -> Tensor:
        prompt = PromptPieces(slots=[0], lengths=[len(prompt_ids)], seen=[0])
        return prefill(self._model, self._cache, prompt, torch.tensor(list(prompt_ids)))

    def feed(self, ids_B: Tensor) -> Tensor:
        return decode(self._model, self._cache, 1, ids_B)
