"""Carries out what the engine decides, on the device: told in plain numbers, in order, never asked to decide.

Everything that changes the device goes through `Runner`, so that several processes can do the same work on
their parts of one model (`ranks`). Only what says so waits for the device.
Legend: B rows of a step, M rows that start, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_core.wire import RoutingArrays
from forklight_kernels import SampledTokens
from forklight_model.cache import CacheForm, HybridCache
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import PromptPieces, advance, copy_weights, prefill
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.parity import NumericMode, check_numeric_mode
from forklight_model.routing import Routing
from forklight_model.upload import upload
from forklight_rollout.adapters.native.choices import cut_choices, read_choices
from forklight_rollout.adapters.native.columns import RowColumns, RowLines
from forklight_rollout.adapters.native.graphs import DecodeGraphs
from forklight_rollout.adapters.native.staged import StagedWeights
from forklight_rollout.memory_plan import MemoryPlan
from forklight_rollout.weights.manifest import PublishedWeights


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
            _as_one(column)
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

    @property
    def arrived(self) -> torch.cuda.Event | None:
        """None on a CPU, where they are there already."""
        return self._arrived

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
    """Rows 0 to num_sequences - 1 of the batch are slots 0 to num_sequences - 1 of the cache."""

    def __init__(self, model: HybridModel, plan: MemoryPlan, manner: RunnerManner) -> None:
        weight = model.lm_head.weight
        self.model, self.manner = model, manner
        self.numeric_mode: NumericMode = check_numeric_mode(weight.device.type, weight.dtype)
        self.cache = HybridCache(
            model.config,
            num_slots=plan.num_slots,
            max_tokens=plan.max_tokens,
            dtype=weight.dtype,
            device=weight.device,
            form=CacheForm(num_pages=plan.num_pages, shard=model.shard),
        )
        self.columns = RowColumns(plan.num_sequences, self.cache.device)
        if weight.is_cuda:  # a CPU's product may have other bits at another width
            model.join_weights()
        self.staged = StagedWeights(model)
        self._logits_by_slot: dict[int, Tensor] = {}
        self._graphs = (
            DecodeGraphs(model, self.cache, self.columns, plan.num_sequences) if manner.uses_graphs else None
        )

    def feed(
        self, slots: Sequence[int], pieces: Sequence[Sequence[int]], seen: Sequence[int]
    ) -> list[RoutingArrays]:
        """Prefill a piece into each slot; what the routers chose, where that is recorded."""
        routing = Routing() if self.manner.records_routing else None
        cut = PromptPieces(slots=slots, lengths=[len(piece) for piece in pieces], seen=seen)
        ids_T = upload([token for piece in pieces for token in piece], self.cache.device)
        logits_BV = prefill(self.model, self.cache, cut, ids_T, routing)
        self._logits_by_slot.update(zip(slots, logits_BV.unbind(), strict=True))
        return [] if routing is None else cut_choices(read_choices(routing), cut.lengths)

    def start(self, slot: int, first: int, lines: RowLines, *, is_filtered: bool) -> Drawn:
        """Rows from `first` on begin with what the slot was fed last, and draw their first tokens."""
        self.columns.write(first, lines)
        logits_MV = self._logits_by_slot[slot].expand(lines.num_rows, -1)
        rows = slice(first, first + lines.num_rows)
        return self.columns.draw(logits_MV, rows, is_filtered=is_filtered)

    def decode(
        self, num_rows: int, *, is_filtered: bool
    ) -> tuple[SampledTokens, Tensor, list[RoutingArrays]]:
        """The next token of the first rows, and what the routers chose for the last one."""
        rows = slice(0, num_rows)
        routing = Routing() if self.manner.records_routing else None
        if self._graphs is not None:
            logits_BV = self._graphs.decode(num_rows)
        else:
            # Without a step under way every row is known to be live, and nobody has to look.
            is_live_B = self.columns.is_live_R[rows] if self.manner.runs_ahead else None
            step = DecodePass.over(self.cache, num_rows, is_live_B)
            logits_BV = advance(self.model, step, self.columns.last_ids_R[rows], routing)
        tokens, reasons_B = self.columns.draw(logits_BV, rows, is_filtered=is_filtered)
        choices = [] if routing is None else cut_choices(read_choices(routing), [1] * num_rows)
        return tokens, reasons_B, choices

    def score(self, ids: Sequence[int]) -> list[float]:
        """Log-probs of the tokens after the first, at temperature 1. Waits for the device."""
        device = self.cache.device
        cu_seqlens = torch.tensor([0, len(ids)], dtype=torch.int32, device=device)
        stats = token_logprobs(self.model, torch.tensor(list(ids), device=device), cu_seqlens)
        self.wait()
        scores: list[float] = stats.logprobs_T[1:].tolist()
        return scores

    def copy_logits(self, source: int, target: int) -> None:
        """A slot that goes on from another's last token can start sequences as that can."""
        self._logits_by_slot[target] = self._logits_by_slot[source]

    def forget_logits(self, slot: int) -> None:
        """Nothing starts from this slot any more."""
        self._logits_by_slot.pop(slot, None)

    def write_table(self, slots: Sequence[int], columns: Sequence[int], pages: Sequence[int]) -> None:
        """See `HybridCache.write_table`."""
        self.cache.write_table(slots, columns, pages)

    def copy_pages(self, from_pages: Sequence[int], to_pages: Sequence[int]) -> None:
        """See `HybridCache.copy_pages`."""
        self.cache.copy_pages(from_pages, to_pages)

    def copy_slot(self, from_slot: int, to_slots: Sequence[int]) -> None:
        """See `HybridCache.copy_slot`."""
        self.cache.copy_slot(from_slot, to_slots)

    def clear_table(self, slots: Sequence[int]) -> None:
        """See `HybridCache.clear_table`."""
        self.cache.clear_table(slots)

    def reset(self, slots: Sequence[int]) -> None:
        """See `HybridCache.reset`."""
        self.cache.reset(slots)

    def set_length(self, slot: int, length: int) -> None:
        """See `HybridCache.set_length`."""
        self.cache.set_length(slot, length)

    def move_row(self, source: int, target: int) -> None:
        """What runs in one row goes on in another."""
        self.cache.copy_slot(source, [target])
        self.cache.copy_table_row(source, [target])
        self.columns.move(source, target)

    def clear_row(self, row: int) -> None:
        """The row is idle from now on."""
        self.cache.clear_table([row])
        self.cache.set_length(row, 0)
        self.columns.clear(row)

    def read_num_certain(self, row: int) -> int:
        """Waits for the device."""
        self.wait()
        return self.columns.read_num_certain(row)

    def stage(self, weights: PublishedWeights) -> None:
        """Load weights beside those in use, in any thread; WeightsError changes nothing."""
        self.staged.load(weights)
        self.staged.keep()

    def swap(self) -> int:
        """Compute with the staged weights from here on; their version. WeightsError: nothing is staged."""
        model, version = self.staged.take()
        copy_weights(self.model, model)
        return version

    def wait(self, launched: Launched | None = None) -> None:
        """Until draws have arrived, or everything is done. Alone, reading does that by itself."""

    def close(self) -> None:
        """Nothing is asked of it any more. A graph holds on to the messages that it was recorded with."""
        self._graphs = None


def _as_one(parts: tuple[Tensor, ...]) -> Tensor:
    """Numbers that the next step leaves as they are. A GPU copies them to the host before that begins."""
    return parts[0] if len(parts) == 1 and parts[0].is_cuda else torch.cat(parts)


def _to_pinned(column: Tensor) -> Tensor:
    return torch.empty(column.shape, dtype=column.dtype, pin_memory=True).copy_(column, non_blocking=True)
