"""Attention of the newest tokens against a KV cache: one masked batch over all sequences.

Decode goes through the pages column by column, as far as the longest sequence reaches, and never joins them.

Legend: T new tokens, B sequences, Q padded new tokens a sequence, H heads, G key heads, L cached places,
D head size, R = (H / G) * Q query rows that share a key head.
"""

from collections.abc import Iterable, Iterator
from functools import reduce

import torch
from torch import Tensor

from forklight_kernels.cached_attention.types import KeyPages
from forklight_kernels.packing import accumulation_dtype, chunk_layout, longest


def cached_attention(
    q_THD: Tensor, pages: KeyPages, lengths_B: Tensor, cu_seqlens: Tensor | None = None
) -> Tensor:
    if cu_seqlens is None:
        return _decode(q_THD, pages, lengths_B)
    keys_BGLD, values_BGLD = pages.per_sequence()
    layout = chunk_layout(cu_seqlens, longest(cu_seqlens))
    q_BHQD = q_THD[layout.source_MC[layout.place_N]].transpose(1, 2)
    is_hidden_B1QL = _hidden_keys(cu_seqlens, lengths_B, layout.chunk_size, keys_BGLD.shape[2])
    o_BHQD = _attend(q_BHQD, [keys_BGLD], [values_BGLD], is_hidden_B1QL)
    o_BQHD = o_BHQD.index_select(0, layout.order_N).transpose(1, 2)
    return o_BQHD.flatten(0, 1).index_select(0, layout.target_T)


def append_keys(
    k_TGD: Tensor, v_TGD: Tensor, pages: KeyPages, positions_T: Tensor, cu_seqlens: Tensor | None = None
) -> None:
    sequence_T = torch.arange(len(k_TGD), device=k_TGD.device)
    if cu_seqlens is not None:
        sequence_T = torch.searchsorted(cu_seqlens, sequence_T, right=True) - 1
    is_inside_T = (positions_T >= 0) & (positions_T < pages.capacity)
    if not bool(is_inside_T.all()):
        k_TGD, v_TGD, positions_T = k_TGD[is_inside_T], v_TGD[is_inside_T], positions_T[is_inside_T]
        sequence_T = sequence_T[is_inside_T]
    page_T, row_T = sequence_T, positions_T
    if pages.table_BN is not None:
        page_T = pages.table_BN[sequence_T, positions_T // pages.page_length]
        row_T = positions_T % pages.page_length
    pages.keys_PGLD[page_T, :, row_T] = k_TGD
    pages.values_PGLD[page_T, :, row_T] = v_TGD


def _decode(q_BHD: Tensor, pages: KeyPages, lengths_B: Tensor) -> Tensor:
    if len(q_BHD) == 0:
        return torch.empty_like(q_BHD)
    num_places = max(1, int(lengths_B.max()))
    place_L = torch.arange(num_places, device=lengths_B.device)
    is_hidden_B11L = (place_L >= lengths_B[:, None])[:, None, None, :]
    keys, values = (_columns(each, pages, num_places) for each in (pages.keys_PGLD, pages.values_PGLD))
    o_BHD = _attend(q_BHD[:, :, None], keys, values, is_hidden_B11L).flatten(1, 2)
    return o_BHD.masked_fill_((lengths_B == 0)[:, None, None], 0)


def _columns(cached_PGLD: Tensor, pages: KeyPages, num_places: int) -> Iterator[Tensor]:
    """[B, G, L, D]: the first pages of all sequences, then the second ones, and so on, up to `num_places`."""
    if pages.table_BN is None:
        yield cached_PGLD[:, :, :num_places]
        return
    for column, start in enumerate(range(0, num_places, pages.page_length)):
        part_PGLD, page_B = cached_PGLD[:, :, : num_places - start], pages.table_BN[:, column]
        numbers: list[int] = page_B.tolist()
        run = slice(numbers[0], numbers[0] + len(numbers))
        is_run = numbers == list(range(run.start, run.stop))
        yield part_PGLD[run] if is_run else part_PGLD.index_select(0, page_B)


def _attend(
    q_BHQD: Tensor, keys_BGLD: Iterable[Tensor], values_BGLD: Iterable[Tensor], is_hidden: Tensor
) -> Tensor:
    """Keys and values come in parts along their places, which are never joined."""
    num_sequences, num_heads, num_places, head_size = q_BHQD.shape
    dtype, parts = accumulation_dtype(q_BHQD), []
    scaled_BHQD = q_BHQD.to(dtype) * head_size**-0.5
    for part_BGLD in keys_BGLD:
        q_BGRD = scaled_BHQD.reshape(num_sequences, part_BGLD.shape[1], -1, head_size)
        parts.append(torch.matmul(q_BGRD, part_BGLD.to(dtype).transpose(2, 3)))
    scores_BGRL = parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)
    scores_BGRL.view(num_sequences, num_heads, num_places, -1).masked_fill_(is_hidden, float("-inf"))
    weights = torch.softmax(scores_BGRL, dim=3).split_with_sizes([part.shape[3] for part in parts], dim=3)
    outputs = (
        torch.matmul(weights_BGRL, part_BGLD.to(dtype))
        for weights_BGRL, part_BGLD in zip(weights, values_BGLD, strict=True)
    )
    return reduce(torch.add, outputs).view(q_BHQD.shape).to(q_BHQD.dtype)


def _hidden_keys(cu_seqlens: Tensor, lengths_B: Tensor, num_places: int, num_keys: int) -> Tensor:
    """[B, 1, Q, L]: cached places that a query must not see. Padding queries see what the last one sees."""
    place_L = torch.arange(num_keys, device=lengths_B.device)
    first_B = lengths_B - (cu_seqlens[1:] - cu_seqlens[:-1])
    last_visible_BQ = first_B[:, None] + torch.arange(num_places, device=lengths_B.device)
    last_visible_BQ = torch.minimum(last_visible_BQ, lengths_B[:, None] - 1)
    return place_L > last_visible_BQ[:, None, :, None]
