"""The head's gradients: recompute a slice of the vocabulary's logits, write dz, two products; next slice.

Slices are of the vocabulary and not of the tokens: the weight's gradient of a slice is then one product,
written once in the weight's dtype, and no fp32 [V, D] is held. The hidden state's is a sum of slices, fp32.
Legend: T tokens, D width, V vocabulary, U vocabulary of a slice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from forklight_kernels.launch import num_multiprocessors, prepare_launch
from forklight_kernels.token_stats.blocks import VOCABULARY_BLOCK, inverse_temperature
from forklight_kernels.token_stats.triton_kernels import logit_gradient_kernel
from forklight_kernels.triton_tiles import Tile, mappable, tensor_map

TILE = Tile(rows=128, columns=256, depth=64, num_warps=8, num_stages=3, parts=2, group=16)
EXACT_TILE = Tile(rows=32, columns=256, depth=16, num_warps=8, num_stages=2, parts=2)
"""fp32 operands."""
MIN_DZ_BYTES = 64 << 20
"""dz may always be this large; beyond, as large as the fp32 gradient of the hidden states beside it."""
SUM_COST = 1.5e-4
"""Adding to one fp32 number of dhidden, in the time a multiprocessor takes for one step of K of a tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPull:
    """What the backward pass starts from; an output that is not differentiated has no gradient."""

    hidden_TD: Tensor
    weight_VD: Tensor
    targets_T: Tensor
    entropy_T: Tensor
    normalizer_T: Tensor
    dlogprobs_T: Tensor | None
    dentropy_T: Tensor | None
    temperature: float


def head_gradients(
    pull: HeadPull,
    needs: tuple[bool, bool],
    tile: Tile | None = None,
    slice_width: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of hidden states and weight, each only where `needs` says so."""
    hidden_TD, weight_VD = pull.hidden_TD, pull.weight_VD
    num_tokens, depth = hidden_TD.shape
    width = slice_width or choose_slice_width(
        num_tokens, depth, len(weight_VD), hidden_TD.element_size(), num_multiprocessors(hidden_TD)
    )
    dz_TU = hidden_TD.new_empty(num_tokens, width)
    dhidden_TD: Tensor | None = None
    dweight_VD = torch.empty_like(weight_VD, memory_format=torch.contiguous_format) if needs[1] else None
    launch = GradientLaunch(pull=pull, tile=tile or _tile(hidden_TD))
    for piece in _vocabulary_slices(len(weight_VD), width):
        launch(dz_TU, piece)
        piece_TU = dz_TU[:, : piece.stop - piece.start]
        if dweight_VD is not None:
            torch.mm(piece_TU.t(), hidden_TD, out=dweight_VD[piece])
        if needs[0]:
            dhidden_TD = _added_product(dhidden_TD, piece_TU, weight_VD[piece])
    del dz_TU, piece_TU  # before the rounded copy of dhidden is made
    return None if dhidden_TD is None else dhidden_TD.to(hidden_TD.dtype), dweight_VD


def _tile(hidden_TD: Tensor) -> Tile:
    return EXACT_TILE if hidden_TD.dtype == torch.float32 else TILE


def _vocabulary_slices(vocab_size: int, width: int) -> Iterator[slice]:
    for start in range(0, vocab_size, width):
        yield slice(start, min(start + width, vocab_size))


def _added_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right in fp32, in place."""
    if left.dtype == torch.float32 or not left.is_cuda:  # only CUDA multiplies 16-bit numbers into fp32
        left, right = left.float(), right.float()
        return left @ right if total is None else total.addmm_(left, right)
    if total is None:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.addmm(total, left, right, out_dtype=torch.float32, out=total)


@lru_cache(maxsize=256)
def choose_slice_width(
    num_tokens: int, depth: int, vocab_size: int, item_bytes: int, num_processors: int
) -> int:
    """Columns of dz at a time: of the equal cuts whose dz fits, the one that leaves processors idle least."""
    dz_bytes = max(4 * num_tokens * depth, MIN_DZ_BYTES)
    widest = max(dz_bytes // (num_tokens * item_bytes) // VOCABULARY_BLOCK, 1) * VOCABULARY_BLOCK
    fewest = -(-vocab_size // widest)
    widths = {_equal_width(vocab_size, count) for count in range(fewest, 2 * fewest + 1)}
    return min(
        sorted(widths, reverse=True),
        key=lambda width: _cost(width, num_tokens, depth, vocab_size, num_processors),
    )


def _equal_width(vocab_size: int, count: int) -> int:
    return -(-vocab_size // (count * VOCABULARY_BLOCK)) * VOCABULARY_BLOCK


def _cost(width: int, num_tokens: int, depth: int, vocab_size: int, num_processors: int) -> float:
    """Waves of tiles times their length along K for the three products of a slice, and the sum of dhidden."""

    def waves(rows: int, columns: int) -> int:
        return -(-(-(-rows // TILE.rows) * -(-columns // TILE.columns)) // num_processors)

    logits = waves(num_tokens, width) * depth
    dweight = waves(width, depth) * num_tokens
    dhidden = waves(num_tokens, depth) * width + SUM_COST * num_tokens * depth
    return -(-vocab_size // width) * (logits + dweight + dhidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientLaunch:
    pull: HeadPull
    tile: Tile

    def __call__(self, dz_TU: Tensor, piece: slice) -> None:
        pull, tile = self.pull, self.tile
        inverse = inverse_temperature(pull.temperature)
        num_rows, num_columns = len(dz_TU), piece.stop - piece.start
        num_tiles = -(-num_rows // tile.rows) * -(-num_columns // tile.columns)
        prepare_launch(dz_TU)
        logit_gradient_kernel[(min(num_tiles, num_multiprocessors(dz_TU)),)](
            tensor_map(mappable(pull.hidden_TD), (tile.rows, tile.depth)),
            tensor_map(mappable(pull.weight_VD), (tile.columns, tile.depth)),
            pull.targets_T,
            pull.normalizer_T,
            pull.entropy_T,
            pull.entropy_T if pull.dlogprobs_T is None else pull.dlogprobs_T,
            pull.entropy_T if pull.dentropy_T is None else pull.dentropy_T,
            tensor_map(dz_TU, (tile.rows, tile.columns // tile.parts)),
            num_rows,
            pull.hidden_TD.shape[1],
            piece.start,
            num_columns,
            inverse,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            PARTS=tile.parts,
            GROUP=tile.group,
            IS_SCALED=inverse != 1.0,
            HAS_LOGPROBS=pull.dlogprobs_T is not None,
            HAS_ENTROPY=pull.dentropy_T is not None,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
