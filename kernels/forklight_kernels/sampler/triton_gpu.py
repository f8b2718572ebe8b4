"""Sampling on a GPU: two launches, seven where a row may have a filter. Nothing waits for the host.

Legend: B sequences, V vocabulary, C chunks of a row.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels.launch import early_start
from forklight_kernels.sampler.triton_bins import bracket_kernel, count_kernel
from forklight_kernels.sampler.triton_draw import draw_kernel
from forklight_kernels.sampler.triton_masses import block_sums_kernel
from forklight_kernels.sampler.triton_nucleus import collect_kernel, select_kernel
from forklight_kernels.sampler.triton_window import BINS, PLAN_FIELDS, SCALE_FIELDS, window_kernel
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest
from forklight_kernels.token_stats.blocks import VOCABULARY_BLOCK, lanes, levels, num_blocks

BLOCKS_A_PROGRAM = 16
CHUNK = BLOCKS_A_PROGRAM * VOCABULARY_BLOCK
CANDIDATES_AT_ONCE = 4096
CHUNKS_AT_ONCE = 16
DRAW_WARPS = 4
COUNT_WARPS = 4
COLLECT_WARPS = 8
SELECT_WARPS = 8
TOTAL_BITS = 61
"""All masses of a row together stay below 2^61."""


def sampler(logits_BV: Tensor, request: SamplingRequest) -> SampledTokens:
    if logits_BV.stride(1) != 1:
        logits_BV = logits_BV.contiguous()
    launches = _Launches(
        logits_BV=logits_BV,
        request=request,
        tokens=_unset_tokens(logits_BV),
        blocks=logits_BV.new_empty(len(logits_BV), num_blocks(logits_BV.shape[1]), 4, dtype=torch.float32),
    )
    launches.sum_blocks()
    launches.draw()
    if request.is_filtered is not False:
        launches.draw_filtered()
    return launches.tokens


def _unset_tokens(logits_BV: Tensor) -> SampledTokens:
    num_rows = len(logits_BV)
    return SampledTokens(
        ids_B=logits_BV.new_empty(num_rows, dtype=torch.int64),
        logprobs_B=logits_BV.new_empty(num_rows, dtype=torch.float32),
        raw_logprobs_B=logits_BV.new_empty(num_rows, dtype=torch.float32),
    )


def mass_scale(vocab_size: int) -> float:
    """Mass of a row's likeliest token: a power of two."""
    return 2.0 ** (TOTAL_BITS - levels(num_blocks(vocab_size)) - levels(VOCABULARY_BLOCK))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launches:
    logits_BV: Tensor
    request: SamplingRequest
    tokens: SampledTokens
    blocks: Tensor

    def sum_blocks(self) -> None:
        num_rows, blocks, _ = self.blocks.shape
        block_sums_kernel[(num_rows, -(-blocks // BLOCKS_A_PROGRAM))](
            self.logits_BV,
            self.request.temperatures_B.contiguous(),
            self.blocks,
            self.logits_BV.stride(0),
            self.logits_BV.shape[1],
            blocks,
            ROWS=BLOCKS_A_PROGRAM,
            BLOCK=VOCABULARY_BLOCK,
            LEVELS=levels(VOCABULARY_BLOCK),
            **early_start(self.logits_BV),
        )

    def draw(self) -> None:
        num_rows, blocks, _ = self.blocks.shape
        vocab_size = self.logits_BV.shape[1]
        draw_kernel[(num_rows,)](
            self.logits_BV,
            self.request.temperatures_B.contiguous(),
            self.request.seeds_B.contiguous(),
            self.request.positions_B.contiguous(),
            self.blocks,
            self.tokens.ids_B,
            self.tokens.logprobs_B,
            self.tokens.raw_logprobs_B,
            self.logits_BV.stride(0),
            vocab_size,
            blocks,
            BLOCK=VOCABULARY_BLOCK,
            LANES=lanes(blocks),
            LEVELS=levels(blocks),
            SCALE=mass_scale(vocab_size),
            num_warps=DRAW_WARPS,
            **early_start(self.logits_BV),
        )

    def draw_filtered(self) -> None:
        num_rows, blocks, _ = self.blocks.shape
        search = _Search(
            launches=self,
            chunks=(num_rows, -(-blocks // BLOCKS_A_PROGRAM)),
            plan=self.blocks.new_empty(num_rows, PLAN_FIELDS.value, dtype=torch.int32),
            scales=self.blocks.new_empty(num_rows, SCALE_FIELDS.value),
            totals=self.blocks.new_empty(num_rows, dtype=torch.int64),
        )
        search.plan_rows()
        search.bracket()
        search.select()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Finds what a row's filters leave, and draws again. A row without a filter returns at once."""

    launches: _Launches
    chunks: tuple[int, int]
    plan: Tensor
    scales: Tensor
    totals: Tensor

    def plan_rows(self) -> None:
        blocks, request = self.launches.blocks, self.launches.request
        vocab_size = self.launches.logits_BV.shape[1]
        top_ks_B, min_ps_B = request.top_ks_B, request.min_ps_B
        window_kernel[(len(blocks),)](
            request.temperatures_B.contiguous(),
            request.top_ps_B.contiguous(),
            self.plan if top_ks_B is None else top_ks_B.contiguous(),
            self.scales if min_ps_B is None else min_ps_B.contiguous(),
            blocks,
            self.plan,
            self.scales,
            self.totals,
            vocab_size,
            blocks.shape[1],
            HAS_TOP_KS=top_ks_B is not None,
            HAS_MIN_PS=min_ps_B is not None,
            LANES=lanes(blocks.shape[1]),
            SCALE=mass_scale(vocab_size),
            DEEPEST=math.log(mass_scale(vocab_size)) + 0.01,
        )

    def bracket(self) -> None:
        logits_BV = self.launches.logits_BV
        num_rows, num_chunks = self.chunks
        bin_counts = self.plan.new_empty(num_rows, num_chunks, BINS.value)
        count_kernel[self.chunks](
            logits_BV,
            self.plan,
            self.scales,
            bin_counts,
            logits_BV.stride(0),
            logits_BV.shape[1],
            CHUNK=CHUNK,
            num_warps=COUNT_WARPS,
        )
        bracket_kernel[(num_rows,)](
            self.plan,
            self.scales,
            self.totals,
            bin_counts,
            num_chunks,
            AT_ONCE=CHUNKS_AT_ONCE,
            SCALE=mass_scale(logits_BV.shape[1]),
        )

    def select(self) -> None:
        logits_BV = self.launches.logits_BV
        candidates = self.scales.new_empty(*self.chunks, CHUNK)
        counts = self.plan.new_empty(*self.chunks)
        rest = self.totals.new_empty(*self.chunks, 2)
        collect_kernel[self.chunks](
            logits_BV,
            self.plan,
            self.scales,
            candidates,
            counts,
            rest,
            logits_BV.stride(0),
            logits_BV.shape[1],
            CHUNK=CHUNK,
            SCALE=mass_scale(logits_BV.shape[1]),
            num_warps=COLLECT_WARPS,
        )
        self._search(candidates, counts, rest)

    def _search(self, candidates: Tensor, counts: Tensor, rest: Tensor) -> None:
        launches = self.launches
        (num_rows, num_chunks), blocks = self.chunks, launches.blocks.shape[1]
        select_kernel[(num_rows,)](
            launches.logits_BV,
            launches.request.seeds_B.contiguous(),
            launches.request.positions_B.contiguous(),
            launches.blocks,
            self.plan,
            self.scales,
            self.totals,
            candidates,
            counts,
            rest,
            launches.tokens.ids_B,
            launches.tokens.logprobs_B,
            launches.tokens.raw_logprobs_B,
            launches.logits_BV.stride(0),
            launches.logits_BV.shape[1],
            blocks,
            num_chunks,
            CHUNK=CHUNK,
            CHUNKS=lanes(num_chunks),
            WIDTH=max(CANDIDATES_AT_ONCE // lanes(num_chunks), 16),
            LANES=lanes(blocks),
            LEVELS=levels(blocks),
            SCALE=mass_scale(launches.logits_BV.shape[1]),
            num_warps=SELECT_WARPS,
        )
