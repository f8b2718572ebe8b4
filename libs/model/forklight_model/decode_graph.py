"""One decode step of a fixed number of slots as a CUDA graph: some two hundred launches for the price of one.

Legend: B sequences, V vocabulary.
"""

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.cache import HybridCache
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import advance
from forklight_model.model import HybridModel

WARM_UP_STEPS = 2
"""Kernels compile and libraries make their handles outside of the graph."""


class DecodeGraph:
    """`decode` for B slots of one cache, recorded once. Slots and ids may change later; B may not."""

    @torch.inference_mode()
    def __init__(self, model: HybridModel, cache: HybridCache, num_slots: int) -> None:
        """Records over the cache's first slots, which must be free: they are reset afterwards."""
        if cache.lengths_S.device.type != "cuda":
            raise InvalidInputError(
                f"a CUDA graph needs a cache on a GPU; this one is on {cache.lengths_S.device}"
            )
        if not 1 <= num_slots <= cache.num_slots or bool(cache.lengths_S[:num_slots].any()):
            raise InvalidInputError(
                f"recording for {num_slots} sequences needs as many free slots from slot 0 on; the cache has "
                f"{cache.num_slots}: record before the first prefill"
            )
        self._model, self._cache = model, cache
        self._slots_B = torch.arange(num_slots, device=cache.lengths_S.device)
        self._ids_B = torch.zeros_like(self._slots_B)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self._advance()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits_BV = self._advance()
        cache.reset(range(num_slots))

    @torch.inference_mode()
    def __call__(self, slots_B: Tensor, input_ids_B: Tensor) -> Tensor:
        """fp32 logits [B, V], overwritten by the next call. The caller keeps to the cache's room."""
        self._slots_B.copy_(slots_B)
        self._ids_B.copy_(input_ids_B)
        self._graph.replay()
        return self._logits_BV

    def _advance(self) -> Tensor:
        step = DecodePass.over(self._cache, self._slots_B, run=None, longest=self._cache.max_tokens)
        return advance(self._model, step, self._ids_B)
