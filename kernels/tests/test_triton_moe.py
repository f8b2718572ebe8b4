"""The Triton product, router and experts on a CPU, by Triton's interpreter.

Legend: T tokens, D width, E experts, K experts a token, I expert width.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, Residual, dense, moe_experts, moe_router, using_backend

pytest.importorskip("triton")
from forklight_kernels.dense import triton_gpu as triton_dense
from forklight_kernels.moe_experts import triton_gpu as triton_experts
from forklight_kernels.moe_experts import triton_plan
from forklight_kernels.triton_tiles import Tile, fit_stages, mappable

Op = Callable[..., Tensor | tuple[Tensor, ...]]

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is chosen where there is no GPU"),
]


def run(op: Op, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradient of every input for fixed random pulls."""
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    result = op(*leaves)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    generator = torch.Generator().manual_seed(7)
    pulls = [torch.randn(value.shape, generator=generator).to(value.dtype) for value in outputs]
    return [value.detach() for value in outputs], list(torch.autograd.grad(outputs, leaves, pulls))


def check(op: Op, inputs: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Outputs and all gradients in fp32 against the definition in fp64; the same output without gradient."""
    with using_backend(Backend.NAIVE):
        truth = run(op, [value.double() for value in inputs])
    with using_backend(Backend.TRITON):
        got = run(op, inputs)
        with torch.no_grad():
            bare = op(*inputs)
    assert_near(got[0], truth[0], tolerance)
    assert_near(got[1], truth[1], tolerance)
    assert_near([bare] if isinstance(bare, Tensor) else list(bare), truth[0], tolerance)


def assert_near(got: Sequence[Tensor], truth: Sequence[Tensor], tolerance: float) -> None:
    for number, (a, b) in enumerate(zip(got, truth, strict=True)):
        assert a.shape == b.shape, number
        if b.numel():
            error = float((a.double() - b).norm() / b.norm().clamp_min(1e-30))
            assert error < tolerance, f"{number} is off by {error:.2e}"


@pytest.mark.parametrize(("num_tokens", "width_in", "width_out"), [(1, 40, 24), (37, 37, 131), (70, 64, 96)])
def test_dense_matches_naive_at_tails(num_tokens: int, width_in: int, width_out: int) -> None:
    check(dense, [torch.randn(num_tokens, width_in), torch.randn(width_out, width_in)])


def test_dense_with_residual_matches_naive() -> None:
    def op(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return dense(x, weight, Residual(x_TD=residual, alpha=3.5, beta=0.5))

    check(op, [torch.randn(37, 40), torch.randn(70, 40), torch.randn(37, 70)])


def test_dense_takes_views_that_no_tensor_map_describes() -> None:
    x, weight = torch.randn(9, 41)[:, 1:], torch.randn(40, 70).t()
    with using_backend(Backend.TRITON):
        torch.testing.assert_close(dense(x, weight), x @ weight.T, rtol=1e-5, atol=1e-5)


def test_dense_of_no_rows_is_no_rows() -> None:
    with using_backend(Backend.TRITON):
        assert dense(torch.randn(0, 16), torch.randn(24, 16)).shape == (0, 24)


@pytest.mark.parametrize(
    "tile",
    [
        *triton_dense.ONE_WAVE_TILES,
        *triton_dense.ONE_WAVE_HIGH_TILES,
        *triton_dense.STREAM_TILES,
        *(tile for tile, _ in triton_dense.COMPUTE_TILES),
    ],
)
def test_dense_is_right_with_every_tile(tile: Tile) -> None:
    x, weight = torch.randn(70, 72).half(), torch.randn(264, 72).half()
    residual = Residual(x_TD=torch.randn(70, 264).half(), alpha=3.5, beta=0.5)
    truth = 3.5 * residual.x_TD.double() + 0.5 * (x.double() @ weight.double().T)
    assert_near([triton_dense.dense(x, weight, residual, torch.float32, tile)], [truth], 1e-5)


@pytest.mark.parametrize("num_rows", [1, 16, 17, 64, 65, 256, 4096])
def test_chosen_tile_covers_few_rows_at_once(num_rows: int) -> None:
    for width in (512, 6144, 24576):
        tile = triton_dense.choose_tile(num_rows, width, torch.bfloat16, 132)
        assert num_rows > 64 or tile.rows >= num_rows


def test_stages_shrink_to_what_shared_memory_holds() -> None:
    tile = Tile(rows=128, columns=256, depth=64, num_warps=8, num_stages=4, parts=2)
    assert fit_stages(tile, 48 * 1024, 32 * 1024).num_stages == 4
    assert fit_stages(tile, 48 * 1024, 64 * 1024).num_stages == 3


def test_mappable_copies_only_what_is_not_aligned() -> None:
    aligned, odd = torch.randn(4, 8), torch.randn(4, 7)
    assert mappable(aligned) is aligned
    copy = mappable(odd)
    assert torch.equal(copy, odd)
    assert copy.stride() == (8, 1)


@pytest.mark.parametrize(("num_experts", "top_k"), [(5, 2), (24, 3), (16, 1)])
def test_router_matches_naive(num_experts: int, top_k: int) -> None:
    def op(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        routed = moe_router(x, weight, top_k)
        experts.append(routed.experts_TK)
        return routed.weights_TK, routed.logits_TE

    experts: list[Tensor] = []
    check(op, [torch.randn(37, 36), torch.randn(num_experts, 36)])
    assert all(torch.equal(each, experts[0]) for each in experts)
    assert experts[0].dtype == torch.int64


def test_replayed_router_matches_naive() -> None:
    given_TK = torch.stack([torch.randperm(8)[:3] for _ in range(20)]).to(torch.int32)

    def op(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        routed = moe_router(x, weight, 3, given_TK)
        assert torch.equal(routed.experts_TK, given_TK.long())
        return routed.weights_TK, routed.logits_TE

    check(op, [torch.randn(20, 36), torch.randn(8, 36)])


@pytest.mark.parametrize("top_k", [2, 6])
def test_router_gives_ties_to_the_lowest_expert(top_k: int) -> None:
    with using_backend(Backend.TRITON):
        routed = moe_router(torch.randn(20, 16), torch.zeros(32, 16), top_k)
    assert torch.equal(routed.experts_TK, torch.arange(top_k).expand(20, top_k))
    torch.testing.assert_close(routed.weights_TK, torch.full((20, top_k), 1 / top_k))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, of the interpreter
def test_router_names_experts_in_range_when_scores_are_nan() -> None:
    with using_backend(Backend.TRITON):
        routed = moe_router(torch.full((3, 16), float("nan")), torch.randn(5, 16), 2)
    assert bool(((routed.experts_TK >= 0) & (routed.experts_TK < 5)).all())
    assert bool(routed.weights_TK.isnan().all())


PLANS = {
    "one row": (torch.tensor([[3]]), 5),
    "spread": (torch.randint(7, (150, 2), generator=torch.Generator().manual_seed(1)), 7),
    "one expert": (torch.full((50, 2), 3), 6),
    "over blocks": (torch.randint(32, (700, 3), generator=torch.Generator().manual_seed(2)), 32),
    "many experts": (torch.randint(250, (40, 2), generator=torch.Generator().manual_seed(3)), 250),
}


@pytest.mark.parametrize("name", list(PLANS))
def test_plan_is_a_stable_sort_by_expert(name: str) -> None:
    experts_TK, num_experts = PLANS[name]
    tile_rows = 16
    plan = triton_plan.plan_experts(experts_TK, num_experts, tile_rows)
    flat_R = experts_TK.flatten()
    order_R = torch.argsort(flat_R, stable=True)
    counts_E = torch.bincount(flat_R, minlength=num_experts)
    tiles_E = (counts_E + tile_rows - 1) // tile_rows
    first_E = tiles_E.cumsum(0) - tiles_E
    rank_R = torch.arange(len(flat_R)) - (counts_E.cumsum(0) - counts_E)[flat_R[order_R]]
    place_R = (first_E * tile_rows)[flat_R[order_R]] + rank_R
    assert torch.equal(plan.place_R[order_R].long(), place_R)
    assert torch.equal(plan.source_P[place_R].long(), order_R)
    assert int(plan.num_tiles_1) == int(tiles_E.sum()) <= len(plan.table_M4)
    expert_M = torch.repeat_interleave(torch.arange(num_experts), tiles_E)
    table = [expert_M, first_E[expert_M], tiles_E[expert_M], (first_E * tile_rows + counts_E)[expert_M]]
    assert torch.equal(plan.table_M4[: len(expert_M)].long(), torch.stack(table, dim=1))
    assert torch.equal(plan.groups_E2.long(), torch.stack([first_E * tile_rows, counts_E], dim=1))


def expert_inputs(num_tokens: int, width: int, inner: int, num_experts: int = 5) -> list[Tensor]:
    """x, weights, w13 and w2."""
    return [
        torch.randn(num_tokens, width),
        torch.softmax(torch.randn(num_tokens, 2), -1),
        torch.randn(num_experts, 2 * inner, width),
        torch.randn(num_experts, inner, width),
    ]


@pytest.mark.parametrize(("num_tokens", "width", "inner"), [(1, 16, 8), (20, 24, 12), (33, 13, 6)])
def test_experts_match_naive(num_tokens: int, width: int, inner: int) -> None:
    # Expert 4 is never chosen: its gradient must be zero, not unset memory.
    experts_TK = torch.randint(4, (num_tokens, 2))

    def op(x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        return moe_experts(x, weights, experts_TK, w13, w2)

    check(op, expert_inputs(num_tokens, width, inner))


def test_experts_with_residual_match_naive_when_all_rows_go_to_one() -> None:
    experts_TK = torch.full((17, 2), 3)

    def op(x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, residual: Tensor) -> Tensor:
        return moe_experts(x, weights, experts_TK, w13, w2, Residual(x_TD=residual, alpha=3.5, beta=0.5))

    check(op, [*expert_inputs(17, 16, 8), torch.randn(17, 16)])


def test_experts_of_no_tokens_are_no_rows_and_give_zero_gradients() -> None:
    def op(x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        return moe_experts(x, weights, torch.zeros(0, 2).long(), w13, w2)

    with using_backend(Backend.TRITON):
        (out,), gradients = run(op, expert_inputs(0, 16, 8))
    assert out.shape == (0, 16)
    assert all(bool((each == 0).all()) for each in gradients)


def test_token_with_an_expert_out_of_range_is_nan_and_no_other() -> None:
    x, weights, w13, w2 = expert_inputs(8, 16, 8)
    experts_TK = torch.randint(5, (8, 2))
    experts_TK[3, 1], experts_TK[5, 0] = 5, -1
    with using_backend(Backend.TRITON), torch.no_grad():
        out = moe_experts(x, weights, experts_TK, w13, w2)
    assert torch.equal(out.isnan().any(1), torch.tensor([0, 0, 0, 1, 0, 1, 0, 0]).bool())


TILES = [*(tiles for _, tiles in triton_experts.STREAM_TILES), triton_experts.TRAINING_TILES]


@pytest.mark.parametrize("tiles", TILES)
def test_experts_are_right_with_every_tile(tiles: triton_experts.ExpertTiles) -> None:
    x, weights, w13, w2 = expert_inputs(20, 40, 72, 3)
    x, w13, w2 = x.half(), (w13 * 0.2).half(), (w2 * 0.2).half()
    experts_TK = torch.randint(3, (20, 2))
    inputs = triton_experts.ExpertInputs(
        x_TD=x, weights_TK=weights, experts_TK=experts_TK, w13_EFD=w13, w2_EID=w2
    )
    with using_backend(Backend.NAIVE):
        truth = moe_experts(x.double(), weights.double(), experts_TK, w13.double(), w2.double())
    assert_near([triton_experts.run(inputs, None, tiles)], [truth], 2e-3)


@pytest.mark.parametrize(("num_rows", "height"), [(2, 16), (128, 16), (512, 32), (2048, 64), (65536, 128)])
def test_chosen_tiles_grow_with_the_rows_an_expert_gets(num_rows: int, height: int) -> None:
    tiles = triton_experts.choose_tiles(num_rows, 32, 9216, torch.bfloat16, keeps=False)
    assert tiles.up.rows == tiles.down.rows == height
    assert triton_experts.choose_tiles(num_rows, 32, 9216, torch.bfloat16, keeps=True).up.rows == 128
