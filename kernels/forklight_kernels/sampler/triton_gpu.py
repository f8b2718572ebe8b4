"""Sampling on a GPU: two launches, four where a row may have a filter. Nothing waits for the host.

Legend: B sequences, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels.sampler.triton_draw import draw_kernel
from forklight_kernels.sampler.triton_masses import block_sums_kernel
from forklight_kernels.sampler.triton_nucleus import collect_kernel, select_kernel
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest
from forklight_kernels.token_stats.blocks import VOCABULARY_BLOCK, lanes, levels, num_blocks

BLOCKS_A_PROGRAM = 16
CHUNK = BLOCKS_A_PROGRAM * VOCABULARY_BLOCK
CANDIDATES_AT_ONCE = 4096
DRAW_WARPS = 4
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
        )

    def draw_filtered(self) -> None:
        num_rows, blocks, _ = self.blocks.shape
        num_chunks = -(-blocks // BLOCKS_A_PROGRAM)
        candidates = self.blocks.new_empty(num_rows, num_chunks, CHUNK)
        counts = self.blocks.new_empty(num_rows, num_chunks, dtype=torch.int32)
        self._collect(candidates, counts)
        self._select(candidates, counts)

    def _collect(self, candidates: Tensor, counts: Tensor) -> None:
        blocks = self.blocks.shape[1]
        collect_kernel[tuple(counts.shape)](
            self.logits_BV,
            self.request.temperatures_B.contiguous(),
            self.request.top_ps_B.contiguous(),
            self.blocks,
            candidates,
            counts,
            self.logits_BV.stride(0),
            self.logits_BV.shape[1],
            blocks,
            CHUNK=CHUNK,
            LANES=lanes(blocks),
            LEVELS=levels(blocks),
        )

    def _select(self, candidates: Tensor, counts: Tensor) -> None:
        blocks, num_chunks = self.blocks.shape[1], counts.shape[1]
        vocab_size = self.logits_BV.shape[1]
        select_kernel[(len(counts),)](
            self.logits_BV,
            self.request.temperatures_B.contiguous(),
            self.request.top_ps_B.contiguous(),
            self.request.seeds_B.contiguous(),
            self.request.positions_B.contiguous(),
            self.blocks,
            candidates,
            counts,
            self.tokens.ids_B,
            self.tokens.logprobs_B,
            self.tokens.raw_logprobs_B,
            self.logits_BV.stride(0),
            vocab_size,
            blocks,
            num_chunks,
            CHUNK=CHUNK,
            CHUNKS=lanes(num_chunks),
            WIDTH=max(CANDIDATES_AT_ONCE // lanes(num_chunks), 16),
            LANES=lanes(blocks),
            LEVELS=levels(blocks),
            SCALE=mass_scale(vocab_size),
            num_warps=SELECT_WARPS,
        )
