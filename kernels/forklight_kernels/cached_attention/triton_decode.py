"""Kernels of a KV cache: one new token a sequence against its pages, split over programs; new rows written.

Decode runs inside CUDA graphs: its grid follows from the capacity, and programs past a sequence's end exit.
"""

import triton
import triton.language as tl

from forklight_kernels.softmax_attention.triton_forward import find_page, find_row
from forklight_kernels.softmax_attention.triton_online import (
    NOTHING,
    add_block,
    finish,
    merge,
    row_sum,
    start_split,
)
from forklight_kernels.triton_order import follow


@triton.jit(do_not_specialize=["num_columns", "page_length", "num_splits"])
def decode_split_kernel(
    Q, K, V, OUT, MAXIMA, SUMS, ACC, LENGTHS, PAGES, scale, q_token_stride, q_head_stride,
    num_columns, page_length, num_splits,
    KEY_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr, COLUMNS: tl.constexpr,
    TABLE: tl.constexpr, WHOLE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The query heads of one key head, one split of one sequence. WHOLE: the only one, so it writes OUT.

    K, V [P, G, L, D] are descriptors; MAXIMA, SUMS [B, G, S, R] and ACC [B, G, S, R, D] hold the splits.
    """
    follow(EARLY)
    split, b, g = tl.program_id(0), tl.program_id(1) // KEY_HEADS, tl.program_id(1) % KEY_HEADS
    length = tl.load(LENGTHS + b).to(tl.int32)
    low = split * SPLIT
    if (low < length) | WHOLE:
        r = tl.arange(0, BLOCK_M)
        d = tl.arange(0, D)
        q_row = b.to(tl.int64) * q_token_stride + (g * GROUP + r)[:, None] * q_head_stride
        is_head = (r < GROUP)[:, None]
        q = tl.load(Q + q_row + d[None, :], mask=is_head, other=0.0)
        high = tl.minimum(low + SPLIT, length)
        middle = high // BLOCK_N * BLOCK_N
        m, sums, acc = start_split(BLOCK_M, D, COLUMNS)
        page = find_page(PAGES, b, low, num_columns, page_length, True, TABLE)  # always one block ahead
        for n in tl.range(low, middle, BLOCK_N, num_stages=STAGES):
            row = find_row(n, 0, page_length, True, TABLE)
            k = K.load([page, g, row, 0]).reshape(BLOCK_N, D)
            v = V.load([page, g, row, 0]).reshape(BLOCK_N, D)
            if TABLE:
                page = find_page(PAGES, b, n + BLOCK_N, num_columns, page_length, True, TABLE)
            scores = tl.dot(q, k.T, input_precision="ieee")
            m, sums, acc = add_block(scores, v, m, sums, acc, scale, BLOCK_N, COLUMNS)
        if middle < high:
            row = find_row(middle, 0, page_length, True, TABLE)
            is_key = middle + tl.arange(0, BLOCK_N) < high
            k = K.load([page, g, row, 0]).reshape(BLOCK_N, D)
            v = V.load([page, g, row, 0]).reshape(BLOCK_N, D)
            v = tl.where(is_key[:, None], v, tl.zeros_like(v))  # the rest of a page is whatever memory held
            scores = tl.dot(q, k.T, input_precision="ieee")
            scores = tl.where(is_key[None, :], scores, float("-inf"))
            m, sums, acc = add_block(scores, v, m, sums, acc, scale, BLOCK_N, COLUMNS)
        if WHOLE:
            o_row = (b.to(tl.int64) * KEY_HEADS * GROUP + g * GROUP + r)[:, None] * D
            o = finish(row_sum(sums), acc).to(OUT.dtype.element_ty)
            tl.store(OUT + o_row + d[None, :], o, mask=is_head)
        else:
            part = (tl.program_id(1).to(tl.int64) * num_splits + split) * GROUP + r
            tl.store(MAXIMA + part, m, mask=r < GROUP)
            tl.store(SUMS + part, row_sum(sums), mask=r < GROUP)
            tl.store(ACC + part[:, None] * D + d[None, :], acc, mask=is_head)


@triton.jit(do_not_specialize=["num_splits"])
def merge_splits_kernel(
    OUT, MAXIMA, SUMS, ACC, LENGTHS, num_splits,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr, UNROLL: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One query head of one sequence: its splits in order, UNROLL loaded at once, absent ones as empty."""
    follow(EARLY)
    b, h = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    num_used = tl.cdiv(tl.load(LENGTHS + b).to(tl.int32), SPLIT)
    first = (tl.program_id(0) // GROUP).to(tl.int64) * num_splits * GROUP + h % GROUP
    one = tl.arange(0, 1)
    d = tl.arange(0, D)
    m = tl.full([1], NOTHING, tl.float32)
    l = tl.zeros([1], tl.float32)  # noqa: E741
    acc = tl.zeros([1, D], tl.float32)
    for start in range(0, num_used, UNROLL):
        for step in tl.static_range(UNROLL):
            part = first + (start + step) * GROUP + one
            is_used = (start + step + one) < num_used
            part_m = tl.load(MAXIMA + part, mask=is_used, other=NOTHING)
            part_l = tl.load(SUMS + part, mask=is_used, other=0.0)
            part_acc = tl.load(ACC + part[:, None] * D + d[None, :], mask=is_used[:, None], other=0.0)
            m, l, acc = merge(m, l, acc, part_m, part_l, part_acc)  # noqa: E741
    o_row = tl.program_id(0).to(tl.int64) * D + one
    tl.store(OUT + o_row[:, None] + d[None, :], finish(l, acc).to(OUT.dtype.element_ty))


@triton.jit(do_not_specialize=["num_columns", "capacity", "page_length"])
def append_rows_kernel(
    X, Y, KEYS, VALUES, POSITIONS, SEQUENCES, PAGES,
    x_token_stride, x_head_stride, y_token_stride, y_head_stride,
    key_page_stride, key_head_stride, key_row_stride, value_page_stride, value_head_stride, value_row_stride,
    num_columns, capacity, page_length,
    KEY_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_G: tl.constexpr, PACKED: tl.constexpr,
    TABLE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Key rows X and value rows Y [T, G, D] of one token go to their place, unless past the capacity."""
    follow(EARLY)
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(POSITIONS + token).to(tl.int64)
    if (place >= 0) & (place < capacity):
        if PACKED:
            sequence = tl.load(SEQUENCES + token).to(tl.int64)
        else:
            sequence = token
        if TABLE:
            page = tl.load(PAGES + sequence * num_columns + place // page_length).to(tl.int64)
            row = place % page_length
        else:
            page = sequence
            row = place
        g = tl.arange(0, BLOCK_G)[:, None].to(tl.int64)
        d = tl.arange(0, D)[None, :]
        x = tl.load(X + token * x_token_stride + g * x_head_stride + d, mask=g < KEY_HEADS)
        y = tl.load(Y + token * y_token_stride + g * y_head_stride + d, mask=g < KEY_HEADS)
        key_row = page * key_page_stride + g * key_head_stride + row * key_row_stride
        value_row = page * value_page_stride + g * value_head_stride + row * value_row_stride
        tl.store(KEYS + key_row + d, x, mask=g < KEY_HEADS)
        tl.store(VALUES + value_row + d, y, mask=g < KEY_HEADS)
