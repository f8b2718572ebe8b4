"""Decode steps as CUDA graphs, one for each of a few batch sizes; a step uses the next larger one.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from functools import partial

import torch
from torch import Tensor

from forklight_model.cache import HybridCache
from forklight_model.decode_graph import StepGraph
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import advance
from forklight_model.model import HybridModel
from forklight_rollout.adapters.native.columns import RowColumns

log = logging.getLogger(__name__)


def batch_sizes(num_rows: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most a third of the rows of a step are idle."""
    sizes = sorted({power * part // 2 for power in (2**n for n in range(1, 15)) for part in (1, 2, 3)})
    return [size for size in sizes if size < num_rows] + [num_rows]


class DecodeGraphs:
    """Recorded before the first sequence, while every row is idle: a recording disturbs nobody."""

    def __init__(self, model: HybridModel, cache: HybridCache, columns: RowColumns, num_rows: int) -> None:
        self._sizes = batch_sizes(num_rows)
        vocab_size = model.config.vocab_size
        self._logits_BV = torch.empty(num_rows, vocab_size, dtype=torch.float32, device=cache.device)
        started = time.perf_counter()
        pool = torch.cuda.graph_pool_handle()
        # The largest first: its memory serves the others.
        self._graphs = {
            size: StepGraph(partial(self._step, model, cache, columns, size), pool)
            for size in reversed(self._sizes)
        }
        log.info(
            "decode steps recorded",
            extra={"num_graphs": len(self._sizes), "seconds": round(time.perf_counter() - started, 1)},
        )

    def decode(self, num_rows: int) -> Tensor:
        """Logits of the first rows, overwritten by the next step."""
        self._graphs[self._sizes[bisect_left(self._sizes, num_rows)]].replay()
        return self._logits_BV[:num_rows]

    def _step(self, model: HybridModel, cache: HybridCache, columns: RowColumns, size: int) -> None:
        step = DecodePass.over(cache, size, columns.is_live_R[:size])
        advance(model, step, columns.last_ids_R[:size], out_BV=self._logits_BV[:size])
