"""Carries out what the engine decides, on the device: told in plain numbers, in order, never asked to decide.

Nothing but `Launched.read` waits for the device.
Legend: B rows of a step, M rows that start, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_core.wire import RoutingArrays
from forklight_kernels import SampledTokens
from forklight_model.cache import HybridCache
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import PromptPieces, advance, prefill
from forklight_model.model import HybridModel
from forklight_model.routing import Routing
from forklight_model.upload import upload
from forklight_rollout.adapters.native.choices import cut_choices, read_choices
from forklight_rollout.adapters.native.columns import RowColumns
from forklight_rollout.adapters.native.graphs import DecodeGraphs
from forklight_rollout.adapters.native.sequences import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnTokens:
    """On the host."""

    ids: list[int]
    logprobs: list[float]
    raw_logprobs: list[float]
    reasons: list[int]


Drawn = tuple[SampledTokens, Tensor]
"""Tokens, and the code of the reason that each is a last one."""


class Launched:
    """Draws under way: their numbers travel to the host behind the work that makes them."""

    def __init__(self, drawn: Sequence[Drawn]) -> None:
        self._columns = [
            torch.cat(column)
            for column in zip(
                *((each.ids_B, each.logprobs_B, each.raw_logprobs_B, reasons_B) for each, reasons_B in drawn),
                strict=True,
            )
        ]
        self._arrived: torch.cuda.Event | None = None
        if self._columns and self._columns[0].is_cuda:
            self._columns = [_to_pinned(column) for column in self._columns]
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> DrawnTokens:
        """Waits for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        ids, logprobs, raw_logprobs, reasons = (
            column.tolist() for column in self._columns or [torch.empty(0)] * 4
        )
        return DrawnTokens(ids=ids, logprobs=logprobs, raw_logprobs=raw_logprobs, reasons=reasons)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerManner:
    """How steps are carried out."""

    uses_graphs: bool
    runs_ahead: bool  # a step is launched before the one before it has been read
    records_routing: bool


class Runner:
    """Rows 0 to num_rows - 1 of the batch are slots 0 to num_rows - 1 of the cache."""

    def __init__(self, model: HybridModel, cache: HybridCache, num_rows: int, manner: RunnerManner) -> None:
        self.model, self.cache = model, cache
        self.columns = RowColumns(num_rows, cache.device)
        self._manner = manner
        self._logits_by_slot: dict[int, Tensor] = {}
        self._graphs = DecodeGraphs(model, cache, self.columns, num_rows) if manner.uses_graphs else None

    def feed(
        self, slots: Sequence[int], pieces: Sequence[Sequence[int]], seen: Sequence[int]
    ) -> list[RoutingArrays]:
        """Prefill a piece into each slot; what the routers chose, where that is recorded."""
        routing = Routing() if self._manner.records_routing else None
        cut = PromptPieces(slots=slots, lengths=[len(piece) for piece in pieces], seen=seen)
        ids_T = upload([token for piece in pieces for token in piece], self.cache.device)
        logits_BV = prefill(self.model, self.cache, cut, ids_T, routing)
        self._logits_by_slot.update(zip(slots, logits_BV.unbind(), strict=True))
        return [] if routing is None else cut_choices(read_choices(routing), cut.lengths)

    def start(self, slot: int, first: int, rows: Sequence[Row]) -> Drawn:
        """Rows from `first` on begin with what the slot was fed last, and draw their first tokens."""
        self.columns.write(first, rows)
        logits_MV = self._logits_by_slot[slot].expand(len(rows), -1)
        is_filtered = any(row.draw.is_filtered for row in rows)
        return self.columns.draw(logits_MV, slice(first, first + len(rows)), is_filtered=is_filtered)

    def copy_logits(self, source: int, target: int) -> None:
        self._logits_by_slot[target] = self._logits_by_slot[source]

    def forget_logits(self, slot: int) -> None:
        self._logits_by_slot.pop(slot, None)

    def decode(
        self, num_rows: int, *, is_filtered: bool
    ) -> tuple[SampledTokens, Tensor, list[RoutingArrays]]:
        """The next token of the first rows, and what the routers chose for the last one."""
        rows = slice(0, num_rows)
        routing = Routing() if self._manner.records_routing else None
        if self._graphs is not None:
            logits_BV = self._graphs.decode(num_rows)
        else:
            # Without a step under way every row is known to be live, and nobody has to look.
            is_live_B = self.columns.is_live_R[rows] if self._manner.runs_ahead else None
            step = DecodePass.over(self.cache, num_rows, is_live_B)
            logits_BV = advance(self.model, step, self.columns.last_ids_R[rows], routing)
        tokens, reasons_B = self.columns.draw(logits_BV, rows, is_filtered=is_filtered)
        choices = [] if routing is None else cut_choices(read_choices(routing), [1] * num_rows)
        return tokens, reasons_B, choices


def _to_pinned(column: Tensor) -> Tensor:
    return torch.empty(column.shape, dtype=column.dtype, pin_memory=True).copy_(column, non_blocking=True)
