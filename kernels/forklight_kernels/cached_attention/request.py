"""What cached attention refuses before any work. Host only: no number on a GPU is read.

`check_request` and `check_append` hold on every backend; `require_layout` is what the GPU's kernels add.
Legend: T new tokens, B sequences, N pages of a sequence, P pages, H heads, G key heads, D head size.
"""

import torch
from torch import Tensor

from forklight_kernels.backend import TRITON_DTYPES
from forklight_kernels.cached_attention.types import KeyPages
from forklight_kernels.checks import (
    require,
    require_dims,
    require_dtype,
    require_head_size,
    require_same,
    require_shape,
)
from forklight_kernels.softmax_attention.request import require_group

INDEX_DTYPES = (torch.int32, torch.int64)


def check_request(q_THD: Tensor, pages: KeyPages, lengths_B: Tensor, cu_seqlens: Tensor | None) -> None:
    """Of `cached_attention`."""
    require_dims("q_THD", q_THD, 3, "[T, H, D]")
    _check_pages(pages, q_THD)
    require_group("keys_PGLD", pages.keys_PGLD.shape[1], q_THD.shape[1])
    require_shape("lengths_B", lengths_B, (pages.num_sequences,), "the sequences of the pages")
    require_dtype("lengths_B", lengths_B, INDEX_DTYPES)
    _require_device("lengths_B", lengths_B, q_THD)
    _check_sequences("q_THD", q_THD, pages, cu_seqlens)


def check_append(
    k_TGD: Tensor, v_TGD: Tensor, pages: KeyPages, positions_T: Tensor, cu_seqlens: Tensor | None
) -> None:
    """Of `append_keys`."""
    require_dims("k_TGD", k_TGD, 3, "[T, G, D]")
    require_same(k_TGD=k_TGD, v_TGD=v_TGD)
    require_shape("v_TGD", v_TGD, tuple(k_TGD.shape), "k_TGD")
    _check_pages(pages, k_TGD)
    num_tokens, _, head_size = k_TGD.shape
    require_shape("k_TGD", k_TGD, (num_tokens, pages.keys_PGLD.shape[1], head_size), "the heads of keys_PGLD")
    require_shape("positions_T", positions_T, (num_tokens,), "the tokens of k_TGD")
    require_dtype("positions_T", positions_T, INDEX_DTYPES)
    _require_device("positions_T", positions_T, k_TGD)
    _check_sequences("k_TGD", k_TGD, pages, cu_seqlens)


def require_layout(pages: KeyPages, block: int | None = None, **indices: Tensor) -> None:
    """What a kernel needs of memory. `block`: keys that one step reads at once, within one page."""
    keys_PGLD, values_PGLD, table_BN = pages.keys_PGLD, pages.values_PGLD, pages.table_BN
    require_dtype("keys_PGLD", keys_PGLD, TRITON_DTYPES)
    require_head_size("keys_PGLD", keys_PGLD)
    require(keys_PGLD.stride(3) == 1 and values_PGLD.stride(3) == 1, "pages must have a last stride of 1")
    require(
        block is None or (pages.page_length > 0 and pages.page_length % block == 0),
        f"keys_PGLD has pages of {pages.page_length} places; allowed are multiples of the key block, {block}",
    )
    if table_BN is not None:
        indices["table_BN"] = table_BN
    for name, index in indices.items():
        require(index.is_contiguous(), f"{name} is a strided view; pass it contiguous")


def _check_pages(pages: KeyPages, rows: Tensor) -> None:
    """The pages themselves, and that they suit rows of queries or keys [T, heads, D]."""
    keys_PGLD, values_PGLD, table_BN = pages.keys_PGLD, pages.values_PGLD, pages.table_BN
    require_dims("keys_PGLD", keys_PGLD, 4, "[P, G, L, D]")
    require_same(keys_PGLD=keys_PGLD, values_PGLD=values_PGLD, new_rows=rows)
    require_shape("values_PGLD", values_PGLD, tuple(keys_PGLD.shape), "keys_PGLD")
    require(
        rows.shape[2] == keys_PGLD.shape[3],
        f"keys_PGLD has head size {keys_PGLD.shape[3]} and the new rows {rows.shape[2]}; they must be equal",
    )
    if table_BN is not None:
        require_dims("table_BN", table_BN, 2, "[B, N]")
        require_dtype("table_BN", table_BN, (torch.int32,))
        _require_device("table_BN", table_BN, keys_PGLD)


def _check_sequences(name: str, rows: Tensor, pages: KeyPages, cu_seqlens: Tensor | None) -> None:
    if cu_seqlens is not None:
        require_shape("cu_seqlens", cu_seqlens, (pages.num_sequences + 1,), "the sequences of the pages")
        return
    require(
        len(rows) == pages.num_sequences,
        f"{name} has {len(rows)} tokens for {pages.num_sequences} sequences; without cu_seqlens each has one",
    )


def _require_device(name: str, tensor: Tensor, reference: Tensor) -> None:
    require(
        tensor.device == reference.device,
        f"{name} is on {tensor.device} and the new rows on {reference.device}; they must be on one device",
    )
