"""Forward kernel of softmax attention: many query rows against packed keys, or against pages of a cache.

A program owns BLOCK_M rows of one query head. It walks the blocks that all its rows see without a mask, then
the diagonal with one; each split of keys is an online softmax of its own, merged in order.
"""

import triton
import triton.language as tl

from forklight_kernels.softmax_attention.triton_online import (
    add_block,
    finish,
    merge,
    row_sum,
    start_split,
)


@triton.jit
def load_tile(TILES, tile):
    """First row of a tile; end, start and number of its sequence; what leads from a row to its statistics."""
    entry = TILES + tile * 5
    return tl.load(entry), tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3), tl.load(entry + 4)


@triton.jit
def find_page(PAGES, sequence, place, num_columns, page_length, PAGED: tl.constexpr, TABLE: tl.constexpr):
    """The page of a place; without a table page b is sequence b, and packed keys are one page."""
    if PAGED:
        if TABLE:
            column = tl.minimum(place // page_length, num_columns - 1)
            return tl.load(PAGES + sequence.to(tl.int64) * num_columns + column)
        else:
            return sequence
    else:
        return sequence * 0


@triton.jit
def find_row(place, first_key, page_length, PAGED: tl.constexpr, TABLE: tl.constexpr):
    """The row of a place in its page."""
    if PAGED:
        if TABLE:
            return place % page_length
        else:
            return place
    else:
        return first_key + place


@triton.jit(do_not_specialize=["stats_stride", "num_columns", "page_length"])
def attend_rows_kernel(
    Q, K, V, OUT, LSE, TILES, LENGTHS, PAGES, scale, stats_stride, num_columns, page_length,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr, STAGES: tl.constexpr, COLUMNS: tl.constexpr, PAGED: tl.constexpr,
    TABLE: tl.constexpr, STORE_LSE: tl.constexpr,
):  # fmt: skip
    """Q [H, T, D] and K, V [P, G, L, D] are descriptors; OUT [T, H, D], LSE [H, S]; TILES of `row_tiles`."""
    tile, h = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    first_row, end_row, first_key, sequence, shift = load_tile(TILES, tile)
    if PAGED:
        length = tl.load(LENGTHS + sequence).to(tl.int32)
        first_place = length - (end_row - first_row)
    else:
        length = end_row - first_key
        first_place = first_row - first_key
    g = h // GROUP
    place_M = first_place + tl.arange(0, BLOCK_M)
    q = Q.load([h, first_row, 0]).reshape(BLOCK_M, D)  # rows from end_row on are never stored
    end = tl.minimum(first_place + BLOCK_M, length)
    seen_by_all = (first_place + 1) // BLOCK_N * BLOCK_N
    total_m, total_sums, total_acc = start_split(BLOCK_M, D, COLUMNS)
    total_l = row_sum(total_sums)
    page = find_page(PAGES, sequence, 0, num_columns, page_length, PAGED, TABLE)  # always one block ahead
    for low in range(0, end, SPLIT):
        high = tl.minimum(low + SPLIT, end)
        middle = tl.minimum(tl.maximum(seen_by_all, low), high)
        m, sums, acc = start_split(BLOCK_M, D, COLUMNS)
        for n in tl.range(low, middle, BLOCK_N, num_stages=STAGES):
            row = find_row(n, first_key, page_length, PAGED, TABLE)
            k = K.load([page, g, row, 0]).reshape(BLOCK_N, D)
            v = V.load([page, g, row, 0]).reshape(BLOCK_N, D)
            if TABLE:
                page = find_page(PAGES, sequence, n + BLOCK_N, num_columns, page_length, PAGED, TABLE)
            scores = tl.dot(q, k.T, input_precision="ieee")
            m, sums, acc = add_block(scores, v, m, sums, acc, scale, BLOCK_N, COLUMNS)
        for n in tl.range(middle, high, BLOCK_N, num_stages=STAGES):
            row = find_row(n, first_key, page_length, PAGED, TABLE)
            place_N = n + tl.arange(0, BLOCK_N)
            k = K.load([page, g, row, 0]).reshape(BLOCK_N, D)
            v = V.load([page, g, row, 0]).reshape(BLOCK_N, D)
            if TABLE:
                page = find_page(PAGES, sequence, n + BLOCK_N, num_columns, page_length, PAGED, TABLE)
            v = tl.where((place_N < length)[:, None], v, tl.zeros_like(v))  # 0 * NaN of a neighbour is NaN
            scores = tl.dot(q, k.T, input_precision="ieee")
            is_visible = (place_N[None, :] <= place_M[:, None]) & (place_N < length)[None, :]
            scores = tl.where(is_visible, scores, float("-inf"))
            m, sums, acc = add_block(scores, v, m, sums, acc, scale, BLOCK_N, COLUMNS)
        total_m, total_l, total_acc = merge(total_m, total_l, total_acc, m, row_sum(sums), acc)
    row_M = first_row + tl.arange(0, BLOCK_M)
    is_own = row_M < end_row
    o_MD = OUT + (row_M.to(tl.int64)[:, None] * HEADS + h) * D + tl.arange(0, D)[None, :]
    tl.store(o_MD, finish(total_l, total_acc).to(OUT.dtype.element_ty), mask=is_own[:, None])
    if STORE_LSE:
        tl.store(LSE + h.to(tl.int64) * stats_stride + row_M + shift, total_m + tl.log2(total_l), mask=is_own)
