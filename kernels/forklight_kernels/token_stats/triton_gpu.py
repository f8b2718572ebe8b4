"""Head statistics on a GPU: tiles, launches and autograd. The gradient's loop is triton_gradient.py.

Logits live in a product's epilogue and are reduced there; only `head_logits`, for generation, stores them.
Legend: T tokens, S tokens of a slice, D width, V vocabulary, B rows of logits.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forklight_kernels.dense.triton_gpu import multiply
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.launch import num_multiprocessors, prepare_launch
from forklight_kernels.token_stats.blocks import (
    VOCABULARY_BLOCK,
    inverse_temperature,
    lanes,
    levels,
    num_blocks,
)
from forklight_kernels.token_stats.triton_gradient import HeadPull, head_gradients
from forklight_kernels.token_stats.triton_kernels import (
    logit_statistics_kernel,
    merge_statistics_kernel,
    product_statistics_kernel,
)
from forklight_kernels.triton_tiles import Tile, mappable, tensor_map

FORWARD_TILE = Tile(rows=128, columns=256, depth=64, num_warps=8, num_stages=4, group=16)
"""16 rows of tiles walk over the vocabulary together: 25 MB of hidden states stay in the L2 cache."""
FEW_ROWS_TILE = Tile(rows=64, columns=256, depth=64, num_warps=4, num_stages=4)
EXACT_TILE = Tile(rows=32, columns=256, depth=16, num_warps=8, num_stages=2)
"""fp32 operands: no matrix unit multiplies them exactly."""

LOGIT_TILES = (
    Tile(rows=16, columns=128, depth=128, num_warps=4, num_stages=5),
    Tile(rows=32, columns=128, depth=128, num_warps=4, num_stages=4),
    Tile(rows=64, columns=256, depth=64, num_warps=4, num_stages=4, parts=2),
    Tile(rows=128, columns=256, depth=64, num_warps=8, num_stages=3, parts=2),
)
"""Stored logits of few rows: the weight's bytes are the cost, wide tiles read the rows again least often."""
EXACT_LOGIT_TILE = Tile(rows=32, columns=64, depth=32, num_warps=4, num_stages=2)

BLOCKS_A_PROGRAM = 16
MERGE_WARPS = 4
NUMBERS_A_BLOCK = 4
MAX_STATISTICS_BYTES = 128 << 20
"""Longer batches take their tokens in slices: 10,600 tokens at a vocabulary of 200,064."""


def token_stats(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    if needs_gradient(hidden_TD, weight_VD):
        logprobs_T, entropy_T = _TokenStats.apply(hidden_TD, weight_VD, targets_T, temperature, tile)
        return logprobs_T, entropy_T
    return head_statistics(hidden_TD, weight_VD, targets_T, temperature, tile)[:2]


def head_logits(
    hidden_BD: Tensor, weight_VD: Tensor, out_BV: Tensor | None = None, tile: Tile | None = None
) -> Tensor:
    """fp32 logits whose statistics have the bits of `token_stats`: the same sums over D."""
    tile = tile or logit_tile(hidden_BD)
    if out_BV is None or mappable(out_BV) is out_BV:
        return multiply(hidden_BD, weight_VD, None, torch.float32, tile, out_BV)
    return out_BV.copy_(multiply(hidden_BD, weight_VD, None, torch.float32, tile))


def logit_tile(hidden_BD: Tensor) -> Tile:
    """The tile for this number of rows."""
    if hidden_BD.dtype == torch.float32:
        return EXACT_LOGIT_TILE
    return next((tile for tile in LOGIT_TILES if tile.rows >= len(hidden_BD)), LOGIT_TILES[-1])


def logit_stats(logits_BV: Tensor, targets_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits_BV = logits_BV if logits_BV.stride(1) == 1 else logits_BV.contiguous()
    num_rows, vocab_size = logits_BV.shape
    blocks = num_blocks(vocab_size)
    stats = logits_BV.new_empty(num_rows, blocks, NUMBERS_A_BLOCK, dtype=torch.float32)
    grid = (num_rows, -(-blocks // BLOCKS_A_PROGRAM))
    logit_statistics_kernel[grid](
        logits_BV,
        targets_B.contiguous(),
        stats,
        logits_BV.stride(0),
        vocab_size,
        blocks,
        inverse_temperature(temperature),
        ROWS=BLOCKS_A_PROGRAM,
        BLOCK=VOCABULARY_BLOCK,
        LEVELS=levels(VOCABULARY_BLOCK),
        IS_SCALED=inverse_temperature(temperature) != 1.0,
    )
    return _merged(stats)[:2]


def head_statistics(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and log-sum-exps [T]."""
    hidden_TD, weight_VD = mappable(hidden_TD), mappable(weight_VD)
    targets_T = targets_T.contiguous()
    tile = tile or _forward_tile(hidden_TD)
    blocks = num_blocks(len(weight_VD))
    parts = []
    for tokens in _token_slices(len(hidden_TD), blocks):
        num_tokens = tokens.stop - tokens.start
        stats = hidden_TD.new_empty(num_tokens, blocks, NUMBERS_A_BLOCK, dtype=torch.float32)
        _launch_statistics(hidden_TD[tokens], weight_VD, targets_T[tokens], stats, temperature, tile)
        parts.append(_merged(stats))
        del stats
    if len(parts) == 1:
        return parts[0]
    logprobs, entropies, normalizers = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies), torch.cat(normalizers)


def _token_slices(num_tokens: int, blocks: int) -> Iterator[slice]:
    whole_tiles = MAX_STATISTICS_BYTES // (blocks * NUMBERS_A_BLOCK * 4) // FORWARD_TILE.rows
    size = max(1, whole_tiles) * FORWARD_TILE.rows
    for start in range(0, num_tokens, size):
        yield slice(start, min(start + size, num_tokens))


def _forward_tile(hidden_TD: Tensor) -> Tile:
    if hidden_TD.dtype == torch.float32:
        return EXACT_TILE
    return FEW_ROWS_TILE if len(hidden_TD) <= FEW_ROWS_TILE.rows else FORWARD_TILE


def _launch_statistics(
    hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor, stats: Tensor, temperature: float, tile: Tile
) -> None:
    inverse = inverse_temperature(temperature)
    prepare_launch(hidden_SD)
    product_statistics_kernel[(_num_programs(hidden_SD, len(hidden_SD), len(weight_VD), tile),)](
        tensor_map(hidden_SD, (tile.rows, tile.depth)),
        tensor_map(weight_VD, (tile.columns, tile.depth)),
        targets_S,
        stats,
        len(hidden_SD),
        len(weight_VD),
        hidden_SD.shape[1],
        stats.shape[1],
        inverse,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        BLOCK=VOCABULARY_BLOCK,
        LEVELS=levels(VOCABULARY_BLOCK),
        GROUP=tile.group,
        IS_SCALED=inverse != 1.0,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def _num_programs(tensor: Tensor, num_rows: int, num_columns: int, tile: Tile) -> int:
    num_tiles = -(-num_rows // tile.rows) * -(-num_columns // tile.columns)
    return min(num_tiles, tile.programs * num_multiprocessors(tensor))


def _merged(stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, blocks, _ = stats.shape
    logprobs, entropy, normalizer = (stats.new_empty(num_rows) for _ in range(3))
    merge_statistics_kernel[(num_rows,)](
        stats,
        logprobs,
        entropy,
        normalizer,
        blocks,
        LANES=lanes(blocks),
        LEVELS=levels(blocks),
        num_warps=MERGE_WARPS,
    )
    return logprobs, entropy, normalizer


class _Context(Context):
    temperature: float
    needs_input_grad: tuple[bool, ...]


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        temperature: float,
        tile: Tile | None,
    ) -> tuple[Tensor, Tensor]:
        logprobs_T, entropy_T, normalizer_T = head_statistics(
            hidden_TD, weight_VD, targets_T, temperature, tile
        )
        ctx.save_for_backward(hidden_TD, weight_VD, targets_T, entropy_T, normalizer_T)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs_T, entropy_T

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        dlogprobs_T, dentropy_T = gradients
        if dlogprobs_T is None and dentropy_T is None:
            return None, None, None, None, None
        hidden_TD, weight_VD, targets_T, entropy_T, normalizer_T = ctx.saved_tensors
        pull = HeadPull(
            hidden_TD=hidden_TD,
            weight_VD=weight_VD,
            targets_T=targets_T.contiguous(),
            entropy_T=entropy_T,
            normalizer_T=normalizer_T,
            dlogprobs_T=None if dlogprobs_T is None else dlogprobs_T.contiguous(),
            dentropy_T=None if dentropy_T is None else dentropy_T.contiguous(),
            temperature=ctx.temperature,
        )
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        return *head_gradients(pull, (needs_hidden, needs_weight)), None, None, None
