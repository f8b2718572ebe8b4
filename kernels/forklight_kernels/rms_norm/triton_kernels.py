"""The row kernels of rms_norm and of gated_norm, which is rms_norm with a gate.

Capitals point to device memory. Rows are WIDTH wide and lie `*_stride` times STRIDE_UNIT elements apart: the
unit tells the compiler what it may load at once. What a kernel writes is contiguous.
A row wider than BLOCK is cut into NUM_BLOCKS: one program writes one block, and each reads the whole row for
its sum, in the same order.

A row's arithmetic depends on nothing that is known only at run time: the numbers of rows and the strides are
never specialised on, so every batch size runs the same compiled kernel.
"""

import triton
import triton.language as tl

from forklight_kernels.triton_math import sigmoid
from forklight_kernels.triton_order import follow

RUN_TIME = ["num_rows", "rows_per_program", "x_stride", "gate_stride", "dy_stride", "num_partials"]


@triton.jit(do_not_specialize=RUN_TIME[:4])
def norm_forward(
    X,
    GATE,
    WEIGHT,
    Y,
    INVERSE_RMS,
    num_rows,
    rows_per_program,
    x_stride,
    gate_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    HAS_GATE: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    dtype: tl.constexpr = Y.dtype.element_ty
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = column < WIDTH
    weight = tl.load(WEIGHT + column, mask=is_inside, other=0.0).to(tl.float32)
    first = tl.program_id(0).to(tl.int64) * rows_per_program
    for step in range(tl.minimum(num_rows - first, rows_per_program).to(tl.int32)):
        row = first + step
        x_row = X + row * x_stride * STRIDE_UNIT
        x = tl.load(x_row + column, mask=is_inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            gate = tl.load(GATE + row * gate_stride * STRIDE_UNIT + column, mask=is_inside, other=0.0)
        inverse = _inverse_rms(x_row, x, eps, WIDTH, BLOCK, NUM_BLOCKS)
        if HAS_GATE:
            # Wide to the end: one rounding.
            y = x * inverse * weight * sigmoid(gate.to(tl.float32))
        else:
            # The published norm is rounded before its weight multiplies it.
            y = weight * (x * inverse).to(dtype).to(tl.float32)
        tl.store(Y + row * WIDTH + column, y.to(dtype), mask=is_inside)
        tl.store(INVERSE_RMS + row, inverse)


@triton.jit
def _inverse_rms(x_row, x, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, NUM_BLOCKS: tl.constexpr):
    if NUM_BLOCKS == 1:
        squares = x * x
    else:
        squares = tl.zeros([BLOCK], tl.float32)
        for block in tl.static_range(NUM_BLOCKS):
            column = block * BLOCK + tl.arange(0, BLOCK)
            part = tl.load(x_row + column, mask=column < WIDTH, other=0.0).to(tl.float32)
            squares = tl.fma(part, part, squares)
    return tl.div_rn(1.0, tl.sqrt_rn(tl.fma(tl.sum(squares, axis=0), 1.0 / WIDTH, eps)))


@triton.jit(do_not_specialize=RUN_TIME[:5])
def norm_backward(
    X,
    GATE,
    DY,
    WEIGHT,
    INVERSE_RMS,
    DX,
    DGATE,
    PARTIAL,
    num_rows,
    rows_per_program,
    x_stride,
    gate_stride,
    dy_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    HAS_GATE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A program's rows, and in PARTIAL [programs, WIDTH] their share of the weight's gradient."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = column < WIDTH
    weight = tl.load(WEIGHT + column, mask=is_inside, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK], tl.float32)
    first = tl.program_id(0).to(tl.int64) * rows_per_program
    for step in tl.range(0, tl.minimum(num_rows - first, rows_per_program).to(tl.int32), num_stages=STAGES):
        row = first + step
        x_row = X + row * x_stride * STRIDE_UNIT
        dy_row = DY + row * dy_stride * STRIDE_UNIT
        gate_row = GATE + row * gate_stride * STRIDE_UNIT
        inverse = tl.load(INVERSE_RMS + row)
        x = tl.load(x_row + column, mask=is_inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_row + column, mask=is_inside, other=0.0).to(tl.float32)
        normed = x * inverse
        y_row = row * WIDTH + column
        if HAS_GATE:
            opening = sigmoid(tl.load(gate_row + column, mask=is_inside, other=0.0).to(tl.float32))
            dy = dy * opening
            dgate = dy * weight * normed * (1.0 - opening)
            tl.store(DGATE + y_row, dgate.to(DGATE.dtype.element_ty), mask=is_inside)
        dweight = tl.fma(dy, normed, dweight)
        dnormed = dy * weight
        if NUM_BLOCKS == 1:
            products = dnormed * normed
        else:
            products = _row_products(
                x_row, gate_row, dy_row, WEIGHT, inverse, WIDTH, BLOCK, NUM_BLOCKS, HAS_GATE
            )
        pull = tl.sum(products, axis=0) * (1.0 / WIDTH)
        dx = inverse * tl.fma(normed, -pull, dnormed)
        tl.store(DX + y_row, dx.to(DX.dtype.element_ty), mask=is_inside)
    tl.store(PARTIAL + tl.program_id(0).to(tl.int64) * WIDTH + column, dweight, mask=is_inside)


@triton.jit
def _row_products(
    x_row,
    gate_row,
    dy_row,
    WEIGHT,
    inverse,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    HAS_GATE: tl.constexpr,
):
    products = tl.zeros([BLOCK], tl.float32)
    for block in tl.static_range(NUM_BLOCKS):
        column = block * BLOCK + tl.arange(0, BLOCK)
        is_inside = column < WIDTH
        weight = tl.load(WEIGHT + column, mask=is_inside, other=0.0).to(tl.float32)
        normed = tl.load(x_row + column, mask=is_inside, other=0.0).to(tl.float32) * inverse
        dy = tl.load(dy_row + column, mask=is_inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            dy = dy * sigmoid(tl.load(gate_row + column, mask=is_inside, other=0.0).to(tl.float32))
        products = tl.fma(dy * weight, normed, products)
    return products


@triton.jit(do_not_specialize=RUN_TIME[5:])
def sum_partials(PARTIAL, OUT, num_partials, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """OUT = PARTIAL [num_partials, WIDTH] summed over its rows, always in the same order."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, num_partials, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        is_inside = (row < num_partials) & (column < WIDTH)
        total += tl.load(PARTIAL + row * WIDTH + column, mask=is_inside, other=0.0)
    total_C = tl.sum(total, axis=0)
    out_column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(OUT + out_column, total_C.to(OUT.dtype.element_ty), mask=out_column < WIDTH)
