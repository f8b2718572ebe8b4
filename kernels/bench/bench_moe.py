"""Product, router and experts against cuBLAS and torch's grouped product.

`python kernels/bench/bench_moe.py [--tune] [--only decode,dense,...]`. Peers run in the same process. TB/s
counts the bytes of the weights that were hit; ratio is the peer's time over ours.
Legend: T tokens, D width, N width out, E experts, K experts a token, I expert width.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from harness import (
    Table,
    attempt,
    copy_bytes_per_s,
    graph_ms,
    median_ms,
    peak_gib,
    relative_error,
    require_gpu,
)
from moe_cases import (
    DENSE_ROWS,
    DENSE_SHAPES,
    MINIMAX,
    SMALL,
    Case,
    dense_calls,
    free,
    grouped_mm,
    make_case,
    randn,
    timed_decode,
    torch_block,
    torch_call,
    torch_plan,
)
from moe_tuning import TUNES
from torch import Tensor
from torch.nn.functional import linear

from forklight_kernels import Residual, dense, moe_experts, moe_router
from forklight_kernels.moe_experts import triton_gpu as experts_gpu
from forklight_kernels.moe_experts.triton_plan import plan_experts
from forklight_kernels.moe_experts.triton_products import gate_and_up, matrix_gradient, rows_by_experts
from forklight_kernels.moe_experts.triton_rows import gather_rows

# ---- dense


def bench_dense() -> None:
    table = Table(
        name="dense", columns=("T", "D", "N", "cuBLAS ms", "ours ms", "ratio", "target", "TB/s", "TFLOP/s")
    )
    for shape in DENSE_SHAPES:
        for rows in DENSE_ROWS:
            peer = dense_calls(rows, shape, linear)
            ours = attempt(f"dense {rows} {shape}", partial(dense_calls, rows, shape, dense))
            if ours is not None:
                weight_bytes, flops = 2 * shape[0] * shape[1], 2 * rows * shape[0] * shape[1]
                target = 0.95 if rows <= 64 or rows >= 2048 else None
                rates = weight_bytes / ours / 1e9, flops / ours / 1e9
                table.add(rows, *shape, peer, ours, peer / ours, target, *rates)
    head = partial(dense, out_dtype=torch.float32)
    for rows in (1, 64):
        peer = dense_calls(rows, (6144, 200064), lambda x, w: torch.mm(x, w.t(), out_dtype=torch.float32))
        ours = dense_calls(rows, (6144, 200064), head)
        table.add(rows, 6144, 200064, peer, ours, peer / ours, 0.95, 2 * 6144 * 200064 / ours / 1e9, None)
    residual_rows(table)
    table.show()


def residual_rows(table: Table) -> None:
    for rows in (64, 8192):
        residual = Residual(x_TD=randn(rows, 6144), alpha=3.5565588, beta=1.0)
        peer = dense_calls(
            rows, (8192, 6144), lambda x, w, r=residual: torch.addmm(r.x_TD, x, w.t(), beta=r.alpha)
        )
        ours = dense_calls(rows, (8192, 6144), lambda x, w, r=residual: dense(x, w, r))
        flops = 2 * rows * 8192 * 6144
        table.add(f"{rows} +residual", 8192, 6144, peer, ours, peer / ours, 0.95, None, flops / ours / 1e9)


# ---- router


def bench_router() -> None:
    table = Table(name="router", columns=("T", "D", "E", "torch ms", "ours ms", "ratio", "x TB/s"))
    for experts, width, _ in (MINIMAX, SMALL):
        weights = [randn(experts, width, scale=0.02) for _ in range(8)]
        for rows in (1, 64, 32768):
            x = randn(rows, width)
            if rows > 256:
                peer = median_ms(partial(torch_router, x, weights[0]))
                ours = median_ms(partial(moe_router, x, weights[0], 2))
            else:
                peer = graph_ms([partial(torch_router, x, weight) for weight in weights])
                ours = graph_ms([partial(moe_router, x, weight, 2) for weight in weights])
            table.add(rows, width, experts, peer, ours, peer / ours, x.nbytes / ours / 1e9)
    table.show()


def torch_router(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    values, experts = torch.softmax(linear(x, weight), -1, dtype=torch.float32).topk(2, -1)
    return values / values.sum(-1, keepdim=True), experts


# ---- experts


def bench_decode() -> None:
    columns = ("size", "T", "what", "torch ms", "ours ms", "ratio", "target", "TB/s", "of copy")
    table = Table(name="experts, decode", columns=columns)
    for name, size in (("m1", MINIMAX), ("small", SMALL)):
        like = make_case(size, 1)
        for tokens in (16, 64, 256):
            attempt(f"{name} {tokens}", partial(decode_rows, table, name, make_case(size, tokens, like)))
        del like
        free()
    table.show()


def decode_rows(table: Table, name: str, case: Case) -> None:
    copy, tokens, (num_experts, inner, width) = copy_bytes_per_s(), len(case.x), case.w2.shape
    _, ends, rows = torch_plan(case.experts, num_experts)
    buffer, hidden = randn(rows, width), randn(rows, inner)
    tiles = experts_gpu.choose_tiles(case.experts.numel(), num_experts, inner, torch.bfloat16, False)
    plan = plan_experts(case.experts, num_experts, tiles.up.rows)
    up = partial(gate_and_up, case.x, case.w13, plan, tiles.up, None, gathers=not tiles.gathers_first)
    down = partial(rows_by_experts, randn(plan.num_places, inner), case.w2, plan, tiles.down)
    # As often as the weights that are hit leave the L2 cache between two calls.
    bytes_each = case.num_hit * inner * width * 2
    timed = {
        "up (2 matrices)": (
            timed_decode(partial(grouped_mm, buffer, case.w13.transpose(1, 2), offs=ends)),
            timed_decode(up),
            1.4,
            2 * bytes_each,
        ),
        "down (1 matrix)": (
            timed_decode(partial(grouped_mm, hidden, case.w2, offs=ends)),
            timed_decode(down),
            1.4,
            bytes_each,
        ),
        "plan": (
            None,
            timed_decode(partial(plan_experts, case.experts, num_experts, tiles.up.rows)),
            None,
            None,
        ),
        "block": (timed_decode(torch_call(case, torch_block)), timed_decode(case.ours), None, 3 * bytes_each),
    }
    for what, (peer, ours, target, num_bytes) in timed.items():
        rate = num_bytes / ours * 1e3 if num_bytes else None
        shown = (rate / 1e12, rate / copy) if rate else (None, None)
        table.add(name, tokens, what, peer, ours, peer / ours if peer else None, target, *shown)


def bench_training(tokens: int = 32768) -> None:
    columns = (
        "size",
        "T",
        "pass",
        "torch compiled ms",
        "ours ms",
        "ratio",
        "torch GiB",
        "ours GiB",
        "TFLOP/s",
        "error",
    )
    table = Table(name="experts, training", columns=columns)
    compiled = torch.compile(torch_block, dynamic=False)
    for name, size in (("m1", MINIMAX), ("small", SMALL)):
        case = make_case(size, tokens)
        attempt(f"training {name}", partial(training_rows, table, name, case, compiled))
        del case
        free()
    table.show()


def training_rows(table: Table, name: str, case: Case, compiled: Callable[..., Tensor]) -> None:
    tokens, (_, inner, width) = len(case.x), case.w2.shape
    flops = 6 * 2 * tokens * width * inner
    peer = torch_call(case, compiled)
    with torch.no_grad():
        error = relative_error(case.ours()[:512], peer()[:512])
        times = median_ms(peer), median_ms(case.ours)
        peaks = peak_gib(peer), peak_gib(case.ours)
    table.add(name, tokens, "forward", *times, times[0] / times[1], *peaks, flops / times[1] / 1e9, error)
    free()
    pull = randn(tokens, width)
    leaves = [each.detach().requires_grad_() for each in (case.x, case.weights, case.w13, case.w2)]
    ours = partial(
        step, lambda: moe_experts(leaves[0], leaves[1], case.experts, leaves[2], leaves[3]), leaves, pull
    )
    ours_ms, ours_gib = median_ms(ours, warmup=1), peak_gib(ours)
    free()
    block, x, matrices, weights, plan = peer.func, *peer.args
    peers = [each.detach().requires_grad_() for each in (x, weights, *matrices)]
    theirs = partial(step, lambda: block(peers[0], tuple(peers[2:]), peers[1], plan), peers, pull)
    peer_ms, peer_gib = median_ms(theirs, warmup=1), peak_gib(theirs)
    rate = 3 * flops / ours_ms / 1e9
    table.add(
        name,
        tokens,
        "forward + backward",
        peer_ms,
        ours_ms,
        peer_ms / ours_ms,
        peer_gib,
        ours_gib,
        rate,
        None,
    )


def step(forward: Callable[[], Tensor], leaves: list[Tensor], pull: Tensor) -> None:
    torch.autograd.grad(forward(), leaves, pull)


def bench_training_parts(tokens: int = 32768) -> None:
    """Each product of the training pass beside grouped_mm of the same product."""
    columns = ("size", "product", "grouped_mm ms", "ours ms", "ratio", "TFLOP/s", "error")
    table = Table(name="experts, training products", columns=columns)
    for name, size in (("m1", MINIMAX), ("small", SMALL)):
        attempt(f"parts {name}", partial(part_rows, table, name, make_case(size, tokens)))
        free()
    table.show()


def part_rows(table: Table, name: str, case: Case) -> None:
    num_experts, inner, width = case.w2.shape
    tiles, gradient_tile = experts_gpu.TRAINING_TILES, experts_gpu.GRADIENT_TILE
    plan = plan_experts(case.experts, num_experts, tiles.up.rows)
    count = plan.groups_E2[:, 1]
    ends = ((count + 127) // 128 * 128).cumsum(0).to(torch.int32)
    rows = int(ends[-1])
    x = gather_rows(case.x, plan)
    both = case.x.new_empty(plan.num_places, 2, inner)
    hidden = gate_and_up(x, case.w13, plan, tiles.up, both, gathers=False)
    both[rows:], x[rows:], hidden[rows:] = 0, 0, 0
    flat = both.view(len(both), -1)
    routed = case.experts.numel()
    single = 2 * routed * width * inner
    up = (lambda: grouped_mm(x[:rows], case.w13.transpose(1, 2), offs=ends), None)
    keep = partial(gate_and_up, x, case.w13, plan, tiles.up, both, gathers=False)
    plain = partial(gate_and_up, x, case.w13, plan, tiles.up, None, gathers=False)
    gathering = partial(gate_and_up, case.x, case.w13, plan, tiles.up, None, gathers=True)
    down = partial(rows_by_experts, hidden, case.w2, plan, tiles.down)
    back = partial(rows_by_experts, x, case.w2, plan, tiles.down, is_transposed=True)
    wide = partial(rows_by_experts, flat, case.w13, plan, tiles.down)
    small_gradient = partial(matrix_gradient, hidden, x, plan, gradient_tile)
    large_gradient = partial(matrix_gradient, flat, x, plan, gradient_tile)
    products = {
        "gather rows": (None, partial(gather_rows, case.x, plan), 0),
        "up": (up[0], plain, 2 * single),
        "up, keeping gate and up": (up[0], keep, 2 * single),
        "up, gathering": (up[0], gathering, 2 * single),
        "down": (lambda: grouped_mm(hidden[:rows], case.w2, offs=ends), down, single),
        "gradient of hidden": (
            lambda: grouped_mm(x[:rows], case.w2.transpose(1, 2), offs=ends),
            back,
            single,
        ),
        "gradient of x": (lambda: grouped_mm(flat[:rows], case.w13, offs=ends), wide, 2 * single),
        "gradient of w2": (
            lambda: grouped_mm(hidden[:rows].t(), x[:rows], offs=ends),
            small_gradient,
            single,
        ),
        "gradient of w13": (
            lambda: grouped_mm(flat[:rows].t(), x[:rows], offs=ends),
            large_gradient,
            2 * single,
        ),
    }
    for product, (peer, ours, flops) in products.items():
        attempt(f"{name} {product}", partial(part_row, table, (name, product), peer, ours, flops))


def part_row(table: Table, names: tuple[str, str], peer, ours, flops: int) -> None:
    ours_ms = median_ms(ours, budget_s=0.25)
    if peer is None:
        table.add(*names, None, ours_ms, None, None, None)
        return
    peer_ms = median_ms(peer, budget_s=0.25)
    result, expected = ours(), peer()
    # Ours of gate and up is hidden already: nothing to compare it with here.
    error = relative_error(result[:512], expected[:512]) if result.shape[-1] == expected.shape[-1] else None
    table.add(*names, peer_ms, ours_ms, peer_ms / ours_ms, flops / ours_ms / 1e9, error)


BENCHES = {
    "decode": bench_decode,
    "dense": bench_dense,
    "router": bench_router,
    "parts": bench_training_parts,
    "training": bench_training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="sweep tiles instead")
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(BENCHES)}")
    arguments = parser.parse_args()
    require_gpu()
    torch.manual_seed(0)
    chosen = TUNES if arguments.tune else BENCHES
    for name, bench in chosen.items():
        if not arguments.only or name in arguments.only.split(","):
            attempt(name, bench)
            free()


if __name__ == "__main__":
    main()
