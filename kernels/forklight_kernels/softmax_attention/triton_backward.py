"""Backward kernels of softmax attention: no atomics, so equal inputs give equal bits.

`delta_kernel`: Delta = rowsum(dO * O). `key_gradient_kernel`: a program owns rows of one key head and walks
the query heads of its group, so grouped sums never leave it. `query_gradient_kernel`: a program owns query
rows. Weights are recomputed from the saved log-sum-exp (powers of two).
"""

import triton
import triton.language as tl

from forklight_kernels.softmax_attention.triton_forward import load_tile


@triton.jit(do_not_specialize=["stats_stride"])
def delta_kernel(
    OUT, DO, DELTA, TILES, stats_stride, do_token_stride, do_head_stride,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows of one query head. OUT [T, H, D]; DELTA [H, S]."""
    tile, h = tl.program_id(0) // HEADS, (tl.program_id(0) % HEADS).to(tl.int64)
    first_row, end, _, _, shift = load_tile(TILES, tile)
    row_M = (first_row + tl.arange(0, BLOCK_M)).to(tl.int64)
    is_row = row_M < end
    d = tl.arange(0, D)[None, :]
    do_row_M = row_M * do_token_stride + h * do_head_stride
    o = tl.load(OUT + (row_M * HEADS + h)[:, None] * D + d, mask=is_row[:, None], other=0.0)
    do = tl.load(DO + do_row_M[:, None] + d, mask=is_row[:, None], other=0.0)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(DELTA + h * stats_stride + row_M + shift, delta, mask=is_row)


@triton.jit
def _add_queries(
    Q, DO, LSE, DELTA, k, v, dk, dv, h, row, end, shift, key_N, scale,
    D: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """What BLOCK_M query rows from `row` on add to a block of keys' gradients (transposed: keys are rows)."""
    row_M = row + tl.arange(0, BLOCK_M)
    is_own = row_M < end
    q = Q.load([h, row, 0]).reshape(BLOCK_M, D)
    do = DO.load([h, row, 0]).reshape(BLOCK_M, D)
    if MASKED:
        q = tl.where(is_own[:, None], q, tl.zeros_like(q))  # the next sequence's rows may hold NaN
        do = tl.where(is_own[:, None], do, tl.zeros_like(do))
    scores_NM = tl.dot(k, q.T, input_precision="ieee")
    lse = LSE.load([h, row + shift]).reshape(BLOCK_M)
    if MASKED:
        lse = tl.where(is_own, lse, 0.0)
        scores_NM = tl.where((key_N[:, None] <= row_M[None, :]) & is_own[None, :], scores_NM, float("-inf"))
    weights_NM = tl.exp2(tl.fma(scores_NM, scale, -lse[None, :]))
    dv = tl.dot(weights_NM.to(do.dtype), do, dv, input_precision="ieee")
    dweights_NM = tl.dot(v, do.T, input_precision="ieee")
    delta = DELTA.load([h, row + shift]).reshape(BLOCK_M)
    if MASKED:
        delta = tl.where(is_own, delta, 0.0)
    dscores_NM = weights_NM * (dweights_NM - delta[None, :])
    dk = tl.dot(dscores_NM.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def key_gradient_kernel(
    Q, K, V, DO, DK, DV, LSE, DELTA, TILES, scale, out_scale,
    KEY_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """BLOCK_N rows of one key head. DK, DV [T, G, D]; the other tensors are descriptors:

    Q, DO [H, T, D], K, V [G, T, D], LSE, DELTA [H, S].
    """
    tile, g = tl.program_id(0) // KEY_HEADS, tl.program_id(0) % KEY_HEADS
    first, end, _, _, shift = load_tile(TILES, tile)
    key_N = first + tl.arange(0, BLOCK_N)
    k = K.load([g, first, 0]).reshape(BLOCK_N, D)  # rows past the end spoil their own gradients only
    v = V.load([g, first, 0]).reshape(BLOCK_N, D)
    dk = tl.zeros([BLOCK_N, D], tl.float32)
    dv = tl.zeros([BLOCK_N, D], tl.float32)
    num_blocks = tl.cdiv(end - first, BLOCK_M)
    num_diagonal = tl.minimum((BLOCK_N + BLOCK_M - 1) // BLOCK_M, num_blocks)
    num_whole = tl.maximum((end - first) // BLOCK_M, num_diagonal) - num_diagonal
    num_masked = num_blocks - num_whole
    per_head = tl.maximum(num_whole, 1)  # the pipeline's prologue divides even where the loop is empty
    for step in tl.range(0, num_whole * GROUP, num_stages=STAGES):
        h = g * GROUP + step // per_head
        row = first + (num_diagonal + step % per_head) * BLOCK_M
        dk, dv = _add_queries(
            Q, DO, LSE, DELTA, k, v, dk, dv, h, row, end, shift, key_N, scale, D, BLOCK_M, False
        )  # fmt: skip
    for step in tl.range(0, num_masked * GROUP, num_stages=STAGES):
        h = g * GROUP + step // num_masked
        block = step % num_masked
        block = tl.where(block < num_diagonal, block, num_blocks - 1)
        row = first + block * BLOCK_M
        dk, dv = _add_queries(
            Q, DO, LSE, DELTA, k, v, dk, dv, h, row, end, shift, key_N, scale, D, BLOCK_M, True
        )  # fmt: skip
    out_ND = (key_N.to(tl.int64)[:, None] * KEY_HEADS + g) * D + tl.arange(0, D)[None, :]
    is_own = (key_N < end)[:, None]
    tl.store(DK + out_ND, (dk * out_scale).to(DK.dtype.element_ty), mask=is_own)
    tl.store(DV + out_ND, dv.to(DV.dtype.element_ty), mask=is_own)


@triton.jit
def _add_keys(
    K, V, q, do, dq, lse, delta, g, key, end, row_M, scale,
    D: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """What BLOCK_N keys from `key` on add to the gradients of a block of query rows."""
    k = K.load([g, key, 0]).reshape(BLOCK_N, D)
    v = V.load([g, key, 0]).reshape(BLOCK_N, D)
    key_N = key + tl.arange(0, BLOCK_N)
    if MASKED:
        k = tl.where((key_N < end)[:, None], k, tl.zeros_like(k))
    scores_MN = tl.dot(q, k.T, input_precision="ieee")
    is_visible_MN = (key_N[None, :] <= row_M[:, None]) & (key_N < end)[None, :]
    if MASKED:
        scores_MN = tl.where(is_visible_MN, scores_MN, float("-inf"))
    weights_MN = tl.exp2(tl.fma(scores_MN, scale, -lse[:, None]))
    dscores_MN = weights_MN * (tl.dot(do, v.T, input_precision="ieee") - delta[:, None])
    if MASKED:
        dscores_MN = tl.where(is_visible_MN, dscores_MN, 0.0)  # hidden value rows may hold NaN
    return tl.dot(dscores_MN.to(k.dtype), k, dq, input_precision="ieee")


@triton.jit(do_not_specialize=["stats_stride"])
def query_gradient_kernel(
    Q, K, V, DO, DQ, LSE, DELTA, TILES, scale, out_scale, stats_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows of one query head. Q, DO [H, T, D] and K, V [G, T, D] are descriptors; DQ [T, H, D]."""
    tile, h = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    first_row, end, first_key, _, shift = load_tile(TILES, tile)
    g = h // GROUP
    row_M = first_row + tl.arange(0, BLOCK_M)
    is_own = row_M < end
    q = Q.load([h, first_row, 0]).reshape(BLOCK_M, D)  # rows past the end spoil their own gradients only
    do = DO.load([h, first_row, 0]).reshape(BLOCK_M, D)
    stats_M = h.to(tl.int64) * stats_stride + row_M + shift
    lse = tl.load(LSE + stats_M, mask=is_own, other=0.0)
    delta = tl.load(DELTA + stats_M, mask=is_own, other=0.0)
    dq = tl.zeros([BLOCK_M, D], tl.float32)
    middle = first_key + (first_row - first_key + 1) // BLOCK_N * BLOCK_N
    last = tl.minimum(first_row + BLOCK_M, end)
    for key in tl.range(first_key, middle, BLOCK_N, num_stages=STAGES):
        dq = _add_keys(K, V, q, do, dq, lse, delta, g, key, end, row_M, scale, D, BLOCK_N, False)
    for key in tl.range(middle, last, BLOCK_N, num_stages=STAGES):
        dq = _add_keys(K, V, q, do, dq, lse, delta, g, key, end, row_M, scale, D, BLOCK_N, True)
    out_MD = (row_M.to(tl.int64)[:, None] * HEADS + h) * D + tl.arange(0, D)[None, :]
    tl.store(DQ + out_MD, (dq * out_scale).to(DQ.dtype.element_ty), mask=is_own[:, None])
