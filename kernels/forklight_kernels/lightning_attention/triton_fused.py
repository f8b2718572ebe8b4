"""The fused half of the gradient: dk and dv in one walk backwards, q, k, v and do read once for both.

Two programs share a head. Each owns half of the columns of dk and half of those of dv, and for that three
quarters of E, the gradient of the state: with e its own half and o the other, dv[:, e] reads E[e, e] and
E[o, e], and dk[:, e] reads E[e, e] and E[e, o]. Every tile is C x 64 or 64 x 64, so four warps do.
Legend as in triton_pass.py.
"""
# ruff: noqa: SIM102  # a test at compile time must not share an expression with one at run time

import triton
import triton.language as tl

from forklight_kernels.lightning_attention.triton_pass import chunk_decays, inside_decay
from forklight_kernels.lightning_attention.triton_silu import through_silu


@triton.jit
def _halves(X, row, own, other, valid, MASKED: tl.constexpr):
    """A tensor's own and other half of a head's columns."""
    mine, theirs = X.load([row, own]), X.load([row, other])
    if MASKED:
        mine, theirs = (
            tl.where(valid, mine, 0.0).to(mine.dtype),
            tl.where(valid, theirs, 0.0).to(theirs.dtype),
        )
    return mine, theirs


@triton.jit
def _store(X, TAIL, x, row, i, num_rows, at, x_row, MASKED: tl.constexpr):
    if MASKED:
        d = tl.arange(0, x.shape[1])
        where = TAIL + (row + i).to(tl.int64)[:, None] * x_row + at + d[None, :]
        tl.store(where, x, mask=(i < num_rows)[:, None])
    else:
        X.store([row, at], x)


@triton.jit
def _chunk(
    Q, K, V, G, XK, XV, DK, DV, DK_TAIL, DV_TAIL, row, q_at, k_at, v_at, g_at, xk_at, xv_at, dk_at, dv_at,
    skip, dk_row, dv_row, s, i, num_rows, ee, oe, eo, inside,
    DERIVATIVE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dk and dv of one chunk (keys are the rows), and E before it from E after it.

    What is needed last (the products that enter E) is written to shared memory first: registers are scarce.
    """
    valid = (i < num_rows)[:, None]
    reads, writes, across = chunk_decays(s, i, num_rows, True)
    g, g_other = _halves(G, row, g_at, g_at + skip, valid, MASKED)
    g_late, g_other_late = (g * writes).to(g.dtype), (g_other * writes).to(g.dtype)
    q, q_other = _halves(Q, row, q_at, q_at + skip, valid, MASKED)
    ee_read, oe_read, eo_read = ee.to(g.dtype), oe.to(g.dtype), eo.to(g.dtype)
    k, k_other = _halves(K, row, k_at, k_at + skip, valid, MASKED)
    p = tl.dot(k, tl.trans(q), input_precision="ieee")
    p = tl.dot(k_other, tl.trans(q_other), p, input_precision="ieee")
    dv = tl.dot(k, ee_read, input_precision="ieee")
    dv = tl.dot(k_other, oe_read, dv, input_precision="ieee") * reads
    dv = tl.dot((p * inside).to(g.dtype), g, dv, input_precision="ieee")
    if DERIVATIVE:
        dv = through_silu(dv, XV.load([row, xv_at]))
    _store(DV, DV_TAIL, dv.to(g.dtype), row, i, num_rows, dv_at, dv_row, MASKED)
    ee = tl.dot(tl.trans(q), g_late, ee * across, input_precision="ieee")
    oe = tl.dot(tl.trans(q_other), g_late, oe * across, input_precision="ieee")
    eo = tl.dot(tl.trans(q), g_other_late, eo * across, input_precision="ieee")
    v, v_other = _halves(V, row, v_at, v_at + skip, valid, MASKED)
    p = tl.dot(v, tl.trans(g), input_precision="ieee")
    p = tl.dot(v_other, tl.trans(g_other), p, input_precision="ieee")
    dk = tl.dot(v, tl.trans(ee_read), input_precision="ieee")
    dk = tl.dot(v_other, tl.trans(eo_read), dk, input_precision="ieee") * reads
    dk = tl.dot((p * inside).to(g.dtype), q, dk, input_precision="ieee")
    if DERIVATIVE:
        dk = through_silu(dk, XK.load([row, xk_at]))
    _store(DK, DK_TAIL, dk.to(g.dtype), row, i, num_rows, dk_at, dk_row, MASKED)
    return ee, oe, eo


@triton.jit
def fused_kernel(
    Q, K, V, G, XK, XV, DK, DV, DK_TAIL, DV_TAIL, TABLE, SLOPES, BEFORE, AFTER,
    q_head, k_head, v_head, g_head, xk_head, xv_head, dk_head, dv_head, dk_row, dv_row,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr,
    HAS_BEFORE: tl.constexpr, STORES_AFTER: tl.constexpr, DERIVATIVE: tl.constexpr,
):  # fmt: skip
    """One program: half a head's columns, one segment, last chunk first. BEFORE: E after the segments' last
    tokens.

    DERIVATIVE: multiply by silu' of XK and XV, the keys and values as they were before silu.
    """
    HALF: tl.constexpr = D // 2
    half, h, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, rows = tl.load(TABLE + segment * 4), tl.load(TABLE + segment * 4 + 1)
    before, after = tl.load(TABLE + segment * 4 + 2), tl.load(TABLE + segment * 4 + 3)
    s = tl.load(SLOPES + h)
    i = tl.arange(0, C)
    own, skip = half * HALF, (1 - 2 * half) * HALF
    e, o = own + tl.arange(0, HALF), own + skip + tl.arange(0, HALF)
    whole = rows // C
    rest = rows - whole * C
    inside = inside_decay(s, i, True)
    q_at, k_at, v_at, g_at = h * q_head + own, h * k_head + own, h * v_head + own, h * g_head + own
    xk_at, xv_at = h * xk_head + own, h * xv_head + own
    ee = tl.zeros([HALF, HALF], tl.float32)
    oe = tl.zeros([HALF, HALF], tl.float32)
    eo = tl.zeros([HALF, HALF], tl.float32)
    if HAS_BEFORE:
        base = BEFORE + (before.to(tl.int64) * H + h) * D * D
        ee = tl.load(base + e[:, None] * D + e[None, :])
        oe = tl.load(base + o[:, None] * D + e[None, :])
        eo = tl.load(base + e[:, None] * D + o[None, :])
    dk_at, dv_at = h * dk_head + own, h * dv_head + own
    if rest > 0:
        ee, oe, eo = _chunk(
            Q, K, V, G, XK, XV, DK, DV, DK_TAIL, DV_TAIL, first + whole * C, q_at, k_at, v_at, g_at,
            xk_at, xv_at, dk_at, dv_at, skip, dk_row, dv_row, s, i, rest, ee, oe, eo, inside,
            DERIVATIVE, True,
        )  # fmt: skip
    for c in tl.range(0, whole, num_stages=STAGES):
        ee, oe, eo = _chunk(
            Q, K, V, G, XK, XV, DK, DV, DK_TAIL, DV_TAIL, first + (whole - 1 - c) * C, q_at, k_at, v_at, g_at,
            xk_at, xv_at, dk_at, dv_at, skip, dk_row, dv_row, s, i, C, ee, oe, eo, inside, DERIVATIVE, False,
        )  # fmt: skip
    if STORES_AFTER:
        if after >= 0:
            base = AFTER + (after.to(tl.int64) * H + h) * D * D
            tl.store(base + e[:, None] * D + e[None, :], ee)
            tl.store(base + o[:, None] * D + e[None, :], oe)
