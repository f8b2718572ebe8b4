"""Products of one input with several weights: one product where the weights lie one behind another in memory.

Legend: T tokens, D width in, N width out, M width out of all weights together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from forklight_kernels.checks import require
from forklight_kernels.dense.product import dense
from forklight_kernels.gradient import needs_gradient


def dense_many(x_TD: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """x @ weight^T for each weight [N, D]. Parts of one product are views of its rows.

    One wide product fills a GPU where narrow ones do not. With a gradient there is a product a weight.
    """
    if not needs_gradient(x_TD, *weights):
        weight_MD = _as_one(weights)
        if weight_MD is not None:
            parts: tuple[Tensor, ...] = dense(x_TD, weight_MD).split([len(each) for each in weights], dim=1)
            return parts
    return tuple(dense(x_TD, weight_ND) for weight_ND in weights)


@torch.no_grad()
def join_weights(weights: Sequence[torch.nn.Parameter]) -> None:
    """Move weights [N, D] of one width into one piece of memory, in order. For weights without a gradient."""
    require(
        not any(weight_ND.requires_grad for weight_ND in weights),
        "weights that need a gradient cannot be joined; call requires_grad_(False) first",
    )
    if _as_one(weights) is not None:
        return
    weight_MD = torch.cat([weight_ND.data for weight_ND in weights])
    for weight_ND, part_ND in zip(weights, weight_MD.split([len(each) for each in weights]), strict=True):
        weight_ND.data = part_ND


def _as_one(weights: Sequence[Tensor]) -> Tensor | None:
    """The weights as one [M, D] over the same memory; None where they do not lie so."""
    first = weights[0]
    storage, end = first.untyped_storage().data_ptr(), first.storage_offset()
    for weight_ND in weights:
        is_next = weight_ND.untyped_storage().data_ptr() == storage and weight_ND.storage_offset() == end
        if not (is_next and weight_ND.is_contiguous() and weight_ND.shape[1] == first.shape[1]):
            return None
        end += weight_ND.numel()
    num_rows = sum(len(weight_ND) for weight_ND in weights)
    return first.as_strided((num_rows, first.shape[1]), (first.shape[1], 1))
