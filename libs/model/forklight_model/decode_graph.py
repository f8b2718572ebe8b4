"""CUDA graphs: a step of some two hundred launches for the price of one.

Legend: B rows, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.cache import HybridCache
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import advance
from forklight_model.model import HybridModel

WARM_UP_STEPS = 2
"""Kernels compile, libraries make their handles and NCCL its connections outside of the graph."""

GraphPool = tuple[int, int]
"""Memory that graphs share; `torch.cuda.graph_pool_handle()` makes one."""


class StepGraph:
    """Any step over fixed buffers, recorded once and replayed.

    The step reads and writes tensors that exist before and after it; every other tensor it makes lives in the
    graph's memory and is lost when it ends. That is why graphs may share a pool: none of them leaves anything
    there for later. Replay them one after another on one stream, in any order.

    The step really runs (WARM_UP_STEPS times) before it is recorded; a recording itself changes nothing. So a
    step that can change something is recorded with all its rows idle: it then changes nothing, whatever lives
    in the slots. Processes that talk through NCCL in the step record the same steps in the same order.
    """

    @torch.inference_mode()
    def __init__(self, step: Callable[[], None], pool: GraphPool | None = None) -> None:
        if not torch.cuda.is_available():
            raise InvalidInputError("a CUDA graph needs an NVIDIA GPU; call the step itself on a CPU")
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of the process (NCCL's watchdog, the one that stages weights) may go on meanwhile.
        with torch.cuda.graph(
            self._graph,
            pool=pool,  # type: ignore[arg-type]
            capture_error_mode="thread_local",
        ):
            step()

    def replay(self) -> None:
        """Run the step on the current stream."""
        self._graph.replay()


class DecodeGraph:
    """`advance` over the first rows of a cache as one graph. Which rows are live may change, B may not."""

    @torch.inference_mode()
    def __init__(
        self, model: HybridModel, cache: HybridCache, num_rows: int, pool: GraphPool | None = None
    ) -> None:
        if not 1 <= num_rows <= cache.num_slots:
            raise InvalidInputError(f"{num_rows} rows need as many slots; the cache has {cache.num_slots}")
        self._model, self._cache, self._num_rows = model, cache, num_rows
        self._ids_B = torch.zeros(num_rows, dtype=torch.int64, device=cache.device)
        self._is_live_B = torch.zeros_like(self._ids_B)
        vocabulary = model.config.vocab_size
        self._logits_BV = torch.zeros(num_rows, vocabulary, dtype=torch.float32, device=cache.device)
        self._graph = StepGraph(self._step, pool)
        self._is_live_B.fill_(1)

    @torch.inference_mode()
    def set_live(self, is_live_B: Tensor) -> None:
        """Which rows advance from now on (1) and which are idle (0); all advance to begin with."""
        self._is_live_B.copy_(is_live_B)

    @torch.inference_mode()
    def __call__(self, input_ids_B: Tensor) -> Tensor:
        """fp32 logits [B, V], overwritten by the next call. The caller keeps to the cache's room."""
        self._ids_B.copy_(input_ids_B)
        self._graph.replay()
        return self._logits_BV

    def _step(self) -> None:
        step = DecodePass.over(self._cache, self._num_rows, self._is_live_B)
        advance(self._model, step, self._ids_B, out_BV=self._logits_BV)
