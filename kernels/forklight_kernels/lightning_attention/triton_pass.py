"""The kernels that walk chunks of 64 tokens with the fp32 state in registers.

A program owns one segment of a sequence, one head and some columns of the state. Whole chunks come and go
through TMA; a shorter chunk at the sequence's end is masked, because the rows after it are another
sequence's. Legend: C tokens a chunk, D head size, BV columns of the state, BD rows of it. Capitals:
descriptors, pointers.
"""
# ruff: noqa: SIM102  # a test at compile time must not share an expression with one at run time

import triton
import triton.language as tl

from forklight_kernels.lightning_attention.triton_silu import active, through_silu


@triton.jit
def chunk_decays(s, i, num_rows, REVERSE: tl.constexpr):
    """What a row loses when it reads the state, when it is written to the state; what the state loses.

    Forward, the state is the one before the chunk; in reverse, it is the gradient of the one after it.
    """
    from_start = tl.exp(-s * (i + 1))
    to_end = tl.exp(-s * tl.maximum(num_rows - 1 - i, 0))
    if REVERSE:
        return to_end[:, None], from_start[:, None], tl.exp(-s * num_rows)
    else:
        return from_start[:, None], to_end[:, None], tl.exp(-s * num_rows)


@triton.jit
def inside_decay(s, i, REVERSE: tl.constexpr):
    """exp(-s * distance) from row to column of a chunk; zero where the column comes later (reverse:
    earlier)."""
    distance = i[:, None] - i[None, :]
    if REVERSE:
        distance = -distance
    return tl.where(distance >= 0, tl.exp(-s * distance), 0.0)


@triton.jit
def load_rows(X, row, column, SILU: tl.constexpr):
    x = X.load([row, column])
    if SILU:
        x = active(x)
    return x


@triton.jit
def load_some_rows(X, row, column, valid, SILU: tl.constexpr):
    """Rows past the sequence's end (another sequence's, or none) become zeros, whatever they hold."""
    x = load_rows(X, row, column, SILU)
    return tl.where(valid, x, 0.0).to(x.dtype)


@triton.jit
def next_state(state, b, v, writes, across):
    """The one update of a state, in this order of operations wherever a chunk is closed."""
    return tl.dot(tl.trans(b), (v * writes).to(v.dtype), state * across, input_precision="ieee")


@triton.jit
def chunk_output(a, b, v, state, inside, reads):
    p = (tl.dot(a, tl.trans(b), input_precision="ieee") * inside).to(v.dtype)
    o = tl.dot(a, state.to(a.dtype), input_precision="ieee") * reads
    return tl.dot(p, v, o, input_precision="ieee")


@triton.jit
def pass_kernel(
    A, B, V, OUT, X, TAIL, TABLE, SLOPES, BEFORE, AFTER,
    a_head, b_head, v_head, o_head, x_head, o_row,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
    REVERSE: tl.constexpr, HAS_BEFORE: tl.constexpr, TRANSPOSED: tl.constexpr, STORES_AFTER: tl.constexpr,
    KEEPS_OPEN: tl.constexpr, SILU_A: tl.constexpr, SILU_B: tl.constexpr, SILU_V: tl.constexpr,
    DERIVATIVE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """OUT = f(A, B, V).

    f(q, k, v) is the output, f(do, v, k) is dq; in reverse f(v, do, q) is dk and f(k, q, do) is dv.
    TAIL is OUT's storage. DERIVATIVE: multiply by silu'(X). TRANSPOSED: the state given is the transpose of
    ours. MASKED: every chunk is treated as if it were a short one (half the code: fp32 products fill a lot).
    """
    pv, h, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, rows = tl.load(TABLE + segment * 4), tl.load(TABLE + segment * 4 + 1)
    before, after = tl.load(TABLE + segment * 4 + 2), tl.load(TABLE + segment * 4 + 3)
    s = tl.load(SLOPES + h)
    i, d, e = tl.arange(0, C), tl.arange(0, D), pv * BV + tl.arange(0, BV)
    num_chunks = tl.cdiv(rows, C)
    whole = rows // C
    if MASKED:
        whole = 0
    a_at, b_at, v_at = h * a_head, h * b_head, h * v_head + pv * BV
    o_at, x_at = h * o_head + pv * BV, h * x_head + pv * BV
    inside = inside_decay(s, i, REVERSE)
    state = tl.zeros([D, BV], tl.float32)
    if HAS_BEFORE:
        base = BEFORE + (before.to(tl.int64) * H + h) * D * D
        if TRANSPOSED:
            state = tl.load(base + e[None, :] * D + d[:, None])
        else:
            state = tl.load(base + d[:, None] * D + e[None, :])
    if REVERSE:
        for c in tl.range(num_chunks - 1, whole - 1, -1, num_stages=1):
            state = _short_chunk(
                A, B, V, X, TAIL, first + c * C, tl.minimum(rows - c * C, C), state, inside, s, i,
                a_at, b_at, v_at, x_at, h * o_head + e, o_row,
                True, False, SILU_A, SILU_B, SILU_V, DERIVATIVE,
            )  # fmt: skip
    reads, writes, across = chunk_decays(s, i, C, REVERSE)
    for c in tl.range(0, whole, num_stages=STAGES):
        row = first + c * C
        if REVERSE:
            row = first + (whole - 1 - c) * C
        a = load_rows(A, row, a_at, SILU_A)
        b = load_rows(B, row, b_at, SILU_B)
        v = load_rows(V, row, v_at, SILU_V)
        o = chunk_output(a, b, v, state, inside, reads)
        if DERIVATIVE:
            o = through_silu(o, X.load([row, x_at]))
        OUT.store([row, o_at], o.to(v.dtype))
        state = next_state(state, b, v, writes, across)
    if not REVERSE:
        for c in tl.range(whole, num_chunks, num_stages=1):
            state = _short_chunk(
                A, B, V, X, TAIL, first + c * C, tl.minimum(rows - c * C, C), state, inside, s, i,
                a_at, b_at, v_at, x_at, h * o_head + e, o_row,
                False, KEEPS_OPEN or not STORES_AFTER, SILU_A, SILU_B, SILU_V, DERIVATIVE,
            )  # fmt: skip
    if STORES_AFTER:
        if after >= 0:
            tl.store(AFTER + (after.to(tl.int64) * H + h) * D * D + d[:, None] * D + e[None, :], state)


@triton.jit
def _short_chunk(
    A, B, V, X, TAIL, row, num_rows, state, inside, s, i, a_at, b_at, v_at, x_at, o_at, o_row,
    REVERSE: tl.constexpr, LEAVES_OPEN: tl.constexpr, SILU_A: tl.constexpr, SILU_B: tl.constexpr,
    SILU_V: tl.constexpr, DERIVATIVE: tl.constexpr,
):  # fmt: skip
    """A chunk that may have fewer than C rows. LEAVES_OPEN: then it does not enter the state."""
    valid = (i < num_rows)[:, None]
    a = load_some_rows(A, row, a_at, valid, SILU_A)
    b = load_some_rows(B, row, b_at, valid, SILU_B)
    v = load_some_rows(V, row, v_at, valid, SILU_V)
    reads, writes, across = chunk_decays(s, i, num_rows, REVERSE)
    o = chunk_output(a, b, v, state, inside, reads)
    if DERIVATIVE:
        o = through_silu(o, X.load([row, x_at]))
    at = TAIL + (row + i).to(tl.int64)[:, None] * o_row + o_at[None, :]
    tl.store(at, o.to(v.dtype), mask=valid)
    if LEAVES_OPEN:
        if num_rows == i.shape[0]:
            state = next_state(state, b, v, writes, across)
    else:
        state = next_state(state, b, v, writes, across)
    return state


@triton.jit
def chain_kernel(
    B, V, TABLE, SLOPES, INITIAL, BOUNDARY, AFTER, b_head, v_head, every,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, HAS_INITIAL: tl.constexpr, STORES_BOUNDARIES: tl.constexpr,
    KEEPS_OPEN: tl.constexpr, SILU_B: tl.constexpr, SILU_V: tl.constexpr,
):  # fmt: skip
    """The state's walk alone, with pass_kernel's own update, for some rows and columns of the state.

    STORES_BOUNDARIES: the state before every `every` chunks (a power of two) goes to BOUNDARY.
    AFTER gets the state after the last chunk.
    """
    blocks: tl.constexpr = D // BV
    pd, pv, h, line = (
        tl.program_id(0) // blocks,
        tl.program_id(0) % blocks,
        tl.program_id(1),
        tl.program_id(2),
    )
    first, rows = tl.load(TABLE + line * 4), tl.load(TABLE + line * 4 + 1)
    number, boundary = tl.load(TABLE + line * 4 + 2), tl.load(TABLE + line * 4 + 3)
    s = tl.load(SLOPES + h)
    i, d, e = tl.arange(0, C), pd * BD + tl.arange(0, BD), pv * BV + tl.arange(0, BV)
    whole = rows // C
    rest = rows - whole * C
    b_at, v_at = h * b_head + pd * BD, h * v_head + pv * BV
    place = h * D * D + d[:, None] * D + e[None, :]
    state = tl.zeros([BD, BV], tl.float32)
    if HAS_INITIAL:
        state = tl.load(INITIAL + number.to(tl.int64) * (H * D * D) + place)
    if REVERSE:
        if rest > 0:
            state = _short_chain(B, V, first + whole * C, rest, state, s, i, b_at, v_at, True, SILU_B, SILU_V)
    _, writes, across = chunk_decays(s, i, C, REVERSE)
    for c in tl.range(0, whole, num_stages=STAGES):
        row = first + c * C
        if REVERSE:
            row = first + (whole - 1 - c) * C
        if STORES_BOUNDARIES:
            if (c & (every - 1)) == 0:
                tl.store(BOUNDARY + (boundary + c // every).to(tl.int64) * (H * D * D) + place, state)
        b = load_rows(B, row, b_at, SILU_B)
        v = load_rows(V, row, v_at, SILU_V)
        state = next_state(state, b, v, writes, across)
    if not REVERSE:
        if STORES_BOUNDARIES:
            if (whole & (every - 1)) == 0:  # the next segment holds the short chunk only, or nothing
                if (rest > 0) | (rows == 0):
                    tl.store(BOUNDARY + (boundary + whole // every).to(tl.int64) * (H * D * D) + place, state)
        if not KEEPS_OPEN:
            if rest > 0:
                state = _short_chain(
                    B, V, first + whole * C, rest, state, s, i, b_at, v_at, False, SILU_B, SILU_V
                )
    tl.store(AFTER + number.to(tl.int64) * (H * D * D) + place, state)


@triton.jit
def _short_chain(
    B, V, row, rest, state, s, i, b_at, v_at,
    REVERSE: tl.constexpr, SILU_B: tl.constexpr, SILU_V: tl.constexpr,
):  # fmt: skip
    valid = (i < rest)[:, None]
    b = load_some_rows(B, row, b_at, valid, SILU_B)
    v = load_some_rows(V, row, v_at, valid, SILU_V)
    _, writes, across = chunk_decays(s, i, rest, REVERSE)
    return next_state(state, b, v, writes, across)


@triton.jit
def _decayed_sum(decay, added, next_decay, next_added):
    return decay * next_decay, added * next_decay + next_added


@triton.jit
def scan_kernel(
    STATES, SPANS, TABLE, SLOPES, INITIAL,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, REVERSE: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
):  # fmt: skip
    """In place: what each segment adds to the state becomes the state before it (reverse: after it).

    GROUP segments are read at once: one after another, a program would wait for memory at every step. For
    gradients only: the sum over segments is not the one that a walk through all chunks makes.
    """
    block, h, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(SPANS + sequence * 2), tl.load(SPANS + sequence * 2 + 1)
    s = tl.load(SLOPES + h)
    place = h * D * D + block * BLOCK + tl.arange(0, BLOCK)
    group = tl.arange(0, GROUP)
    state = tl.zeros([BLOCK], tl.float32)
    if HAS_INITIAL:
        state = tl.load(INITIAL + sequence.to(tl.int64) * (H * D * D) + place)
    for first in range(begin, end, GROUP):
        number = first + group
        segment, step = number, 1
        if REVERSE:
            segment, step = begin + end - 1 - number, -1
        rows = tl.load(TABLE + segment * 4 + 1, mask=number < end, other=0)
        at = STATES + segment.to(tl.int64)[:, None] * (H * D * D) + place[None, :]
        added = tl.load(at, mask=(number < end)[:, None], other=0.0)
        decay = tl.broadcast_to(tl.exp(-s * rows)[:, None], [GROUP, BLOCK])
        decay, added = tl.associative_scan((decay, added), 0, _decayed_sum)
        after = state[None, :] * decay + added
        tl.debug_barrier()  # every sum of the group is read before a state replaces it
        has_next = (group < GROUP - 1) & (number + 1 < end)
        tl.store(at + step * (H * D * D), after, mask=has_next[:, None])
        tl.store(at, tl.broadcast_to(state[None, :], [GROUP, BLOCK]), mask=(group == 0)[:, None])
        state = tl.sum(tl.where((group == GROUP - 1)[:, None], after, 0.0), 0)
