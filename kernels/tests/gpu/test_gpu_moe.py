"""Product, router and experts on a GPU: error against float64, shared bits, plans, graphs.

Legend: T tokens, D width, N width out, E experts, K experts a token, I expert width.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, Residual, dense, moe_experts, moe_router, using_backend

pytestmark = pytest.mark.gpu

Op = Callable[..., Tensor | tuple[Tensor, ...]]
FloatError = Callable[[Tensor, Tensor], float]
Poisoned = Callable[[], AbstractContextManager[None]]

LENGTHS = (1, 63, 64, 65, 500, 4097)
BATCHES = (1, 3, 16, 17, 64, 65, 256)
"""Rows of a call whose bits are compared with the same rows of a call of MANY."""
MANY = 4096
TOLERANCE = {torch.bfloat16: 6e-3, torch.float32: 2e-5}
FEW_NUMBERS, FEW_BF16_TOLERANCE = 64, 2e-2
"""A gradient of fewer numbers does not average over its roundings: a small sum of large terms is off more."""


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def heavy(*shape: int, scale: float = 1.0) -> Tensor:
    """bf16 numbers with heavy tails: sums of them show every change of order."""
    wide = torch.randn(shape, device="cuda") * torch.randn(shape, device="cuda").exp()
    return (wide * scale).bfloat16()


def run(op: Op, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradient of every input for fixed random pulls."""
    leaves = [value.detach().requires_grad_() for value in inputs]
    result = op(*leaves)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    generator = torch.Generator("cuda").manual_seed(7)
    pulls = [torch.randn(value.shape, generator=generator, device="cuda") for value in outputs]
    # Rounded to bf16 first: the same numbers whatever dtype runs.
    pulls = [pull.bfloat16().to(value.dtype) for pull, value in zip(pulls, outputs, strict=True)]
    gradients = torch.autograd.grad(outputs, leaves, pulls)
    return [value.detach() for value in outputs], list(gradients)


def tolerance_for(dtype: torch.dtype, is_few: bool) -> float:
    return FEW_BF16_TOLERANCE if is_few and dtype == torch.bfloat16 else TOLERANCE[dtype]


def assert_right(op: Op, inputs: Sequence[Tensor], error: FloatError, poisoned: Poisoned) -> None:
    """Outputs and gradients near the definition's in float64; the same bits again, and without gradient."""
    with using_backend(Backend.NAIVE):
        truth = run(op, [value.double() for value in inputs])
    with poisoned():
        got, again = run(op, inputs), run(op, inputs)
        with torch.no_grad():
            bare = op(*inputs)
    for kind, a, b, c in zip(("output", "gradient"), got, truth, again, strict=True):
        for number, (value, expected, repeated) in enumerate(zip(a, b, c, strict=True)):
            is_few = kind == "gradient" and value.numel() < FEW_NUMBERS
            assert error(value, expected) < tolerance_for(inputs[0].dtype, is_few), (
                f"{kind} {number} is off by {error(value, expected):.2e}"
            )
            assert torch.equal(value, repeated), f"{kind} {number} changed between two runs"
    for value, expected in zip([bare] if isinstance(bare, Tensor) else bare, got[0], strict=True):
        assert torch.equal(value, expected), "the output changes when a gradient is kept"


# ---- dense


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_dense_is_right(num_tokens: int, float64_error: FloatError, poisoned: Poisoned) -> None:
    inputs = [randn(num_tokens, 1008), randn(528, 1008)]
    assert_right(dense, inputs, float64_error, poisoned)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_dense_with_residual_is_right(
    dtype: torch.dtype, float64_error: FloatError, poisoned: Poisoned
) -> None:
    def op(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return dense(x, weight, Residual(x_TD=residual, alpha=3.5565588, beta=0.5))

    inputs = [randn(500, 333, dtype=dtype), randn(261, 333, dtype=dtype), randn(500, 261, dtype=dtype)]
    assert_right(op, inputs, float64_error, poisoned)


@pytest.mark.parametrize("num_tokens", [1, 64, 2048])
def test_dense_in_fp32_keeps_what_the_accumulator_holds(num_tokens: int, float64_error: FloatError) -> None:
    x, weight = randn(num_tokens, 2048), randn(5000, 2048)
    out = dense(x, weight, out_dtype=torch.float32)
    assert out.dtype == torch.float32
    assert float64_error(out, x.double() @ weight.double().T) < 1e-5


def dense_tiles() -> list[object]:
    from forklight_kernels.dense import triton_gpu

    return [
        *triton_gpu.ONE_WAVE_TILES,
        *triton_gpu.ONE_WAVE_HIGH_TILES,
        *triton_gpu.STREAM_TILES,
        *(tile for tile, _ in triton_gpu.COMPUTE_TILES),
    ]


def test_dense_has_the_same_bits_with_every_tile() -> None:
    """In fp32: what is equal before the rounding is equal after it."""
    from forklight_kernels.dense import triton_gpu

    x, weight = heavy(300, 6144), heavy(1040, 6144)
    outs = [triton_gpu.dense(x, weight, None, torch.float32, tile) for tile in dense_tiles()]
    for number, out in enumerate(outs):
        assert torch.equal(out, outs[0]), f"tile {number}"


@pytest.mark.parametrize("has_residual", [False, True])
def test_dense_rows_have_the_same_bits_in_every_batch(has_residual: bool) -> None:
    x, weight, residual = heavy(MANY, 2048), heavy(2048, 2048), heavy(MANY, 2048)

    def op(rows: slice | Tensor) -> Tensor:
        joined = Residual(x_TD=residual[rows], alpha=3.5565588, beta=0.7) if has_residual else None
        return dense(x[rows], weight, joined)

    many = op(slice(None))
    for batch in BATCHES:
        assert torch.equal(op(slice(77, 77 + batch)), many[77 : 77 + batch]), batch
    order = torch.randperm(MANY, device="cuda")
    assert torch.equal(op(order), many[order])


# ---- router


def routing(x: Tensor, weight: Tensor, top_k: int, given: Tensor | None = None) -> tuple[Tensor, ...]:
    routed = moe_router(x, weight, top_k, given)
    return routed.weights_TK, routed.logits_TE


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_replayed_router_is_right(num_tokens: int, float64_error: FloatError, poisoned: Poisoned) -> None:
    """Replayed, so that a near tie of the definition in float64 cannot choose otherwise."""
    x, weight = randn(num_tokens, 1008), randn(32, 1008, scale=0.03)
    given = moe_router(x, weight, 2).experts_TK
    assert_right(lambda a, b: routing(a, b, 2, given), [x, weight], float64_error, poisoned)


@pytest.mark.parametrize("num_experts", [5, 32, 256])
def test_router_chooses_the_best_and_ties_go_to_the_lowest(num_experts: int) -> None:
    x, weight = randn(500, 512), randn(num_experts, 512)
    weight[num_experts // 2] = weight[1]  # whole columns of equal scores
    for top_k in (1, 2, 4):
        routed = moe_router(x, weight, top_k)
        order = torch.sort(routed.logits_TE, dim=1, descending=True, stable=True).indices[:, :top_k]
        assert torch.equal(routed.experts_TK, order)
        chosen = routed.logits_TE.double().gather(1, order)
        torch.testing.assert_close(
            routed.weights_TK.double(), torch.softmax(chosen, -1), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(("num_experts", "width"), [(32, 6144), (256, 2048)])
def test_router_rows_have_the_same_bits_in_every_batch(num_experts: int, width: int) -> None:
    x, weight = heavy(MANY, width), heavy(num_experts, width, scale=0.01)
    many = moe_router(x, weight, 2)
    for batch in BATCHES:
        rows = slice(77, 77 + batch)
        few = moe_router(x[rows], weight, 2)
        assert torch.equal(few.logits_TE, many.logits_TE[rows]), batch
        assert torch.equal(few.experts_TK, many.experts_TK[rows]), batch
        assert torch.equal(few.weights_TK, many.weights_TK[rows]), batch
    replayed = moe_router(x, weight, 2, many.experts_TK)
    assert torch.equal(replayed.weights_TK, many.weights_TK)


def test_router_scores_have_the_bits_of_dense() -> None:
    x, weight = heavy(300, 6144), heavy(32, 6144, scale=0.01)
    assert torch.equal(moe_router(x, weight, 2).logits_TE, dense(x, weight, out_dtype=torch.float32))


# ---- plan


@pytest.mark.parametrize(
    ("num_tokens", "num_experts"), [(1, 32), (512, 32), (513, 32), (32768, 32), (3000, 256)]
)
@pytest.mark.parametrize("tile_rows", [16, 128])
def test_plan_is_a_stable_sort_by_expert(num_tokens: int, num_experts: int, tile_rows: int) -> None:
    from forklight_kernels.moe_experts.triton_plan import plan_experts

    experts_TK = torch.randint(num_experts, (num_tokens, 2), device="cuda")
    plan = plan_experts(experts_TK, num_experts, tile_rows)
    flat_R = experts_TK.flatten()
    order_R = torch.argsort(flat_R, stable=True)
    counts_E = torch.bincount(flat_R, minlength=num_experts)
    tiles_E = (counts_E + tile_rows - 1) // tile_rows
    first_E = tiles_E.cumsum(0) - tiles_E
    rank_R = torch.arange(len(flat_R), device="cuda") - (counts_E.cumsum(0) - counts_E)[flat_R[order_R]]
    place_R = (first_E * tile_rows)[flat_R[order_R]] + rank_R
    assert torch.equal(plan.place_R[order_R].long(), place_R)
    assert torch.equal(plan.source_P[place_R].long(), order_R)
    expert_M = torch.repeat_interleave(torch.arange(num_experts, device="cuda"), tiles_E)
    assert int(plan.num_tiles_1) == len(expert_M) <= len(plan.table_M4)
    table = [expert_M, first_E[expert_M], tiles_E[expert_M], (first_E * tile_rows + counts_E)[expert_M]]
    assert torch.equal(plan.table_M4[: len(expert_M)].long(), torch.stack(table, dim=1))
    assert torch.equal(plan.groups_E2.long(), torch.stack([first_E * tile_rows, counts_E], dim=1))


# ---- experts


def expert_inputs(num_tokens: int, dtype: torch.dtype, num_experts: int = 8) -> list[Tensor]:
    """x, weights, w13, w2 and a residual."""
    width, inner = 528, 272
    return [
        randn(num_tokens, width, dtype=dtype),
        torch.softmax(torch.randn(num_tokens, 2, device="cuda"), -1),
        randn(num_experts, 2 * inner, width, dtype=dtype, scale=width**-0.5),
        randn(num_experts, inner, width, dtype=dtype, scale=inner**-0.5),
        randn(num_tokens, width, dtype=dtype),
    ]


def mixing(experts_TK: Tensor) -> Op:
    def op(x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, residual: Tensor) -> Tensor:
        return moe_experts(
            x, weights, experts_TK, w13, w2, Residual(x_TD=residual, alpha=3.5565588, beta=0.7)
        )

    return op


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_experts_are_right(num_tokens: int, float64_error: FloatError, poisoned: Poisoned) -> None:
    # The last expert is never chosen: its gradient must be zero, not unset memory.
    experts_TK = torch.rand(num_tokens, 7, device="cuda").argsort(1)[:, :2]
    inputs = expert_inputs(num_tokens, torch.bfloat16)
    assert_right(mixing(experts_TK), inputs, float64_error, poisoned)


def test_experts_in_fp32_are_right(float64_error: FloatError, poisoned: Poisoned) -> None:
    experts_TK = torch.randint(7, (65, 2), device="cuda")
    assert_right(mixing(experts_TK), expert_inputs(65, torch.float32), float64_error, poisoned)


def test_experts_are_right_when_all_rows_go_to_one(float64_error: FloatError, poisoned: Poisoned) -> None:
    experts_TK = torch.full((700, 2), 3, device="cuda")
    assert_right(mixing(experts_TK), expert_inputs(700, torch.bfloat16), float64_error, poisoned)


def test_experts_of_no_tokens_are_no_rows() -> None:
    outputs, gradients = run(
        mixing(torch.zeros(0, 2, device="cuda").long()), expert_inputs(0, torch.bfloat16)
    )
    assert outputs[0].shape == (0, 528)
    assert all(bool((each == 0).all()) for each in gradients)


def heavy_experts(num_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, weights, experts, w13, w2, residual; 32 experts, of heavy-tailed numbers."""
    width, inner = 2048, 768
    experts_TK = torch.rand(num_tokens, 32, device="cuda").argsort(1)[:, :2]
    weights_TK = torch.softmax(torch.randn(num_tokens, 2, device="cuda"), -1)
    w13, w2 = heavy(32, 2 * inner, width, scale=0.02), heavy(32, inner, width, scale=0.03)
    return heavy(num_tokens, width), weights_TK, experts_TK, w13, w2, heavy(num_tokens, width)


def test_expert_rows_have_the_same_bits_in_every_batch_and_order() -> None:
    x, weights, experts, w13, w2, residual = heavy_experts(MANY)

    def op(rows: slice | Tensor, keeps: bool = False) -> Tensor:
        joined = Residual(x_TD=residual[rows], alpha=3.5565588, beta=0.7)
        leaf = w2.detach().requires_grad_(keeps)
        return moe_experts(x[rows], weights[rows], experts[rows], w13, leaf, joined).detach()

    many = op(slice(None))
    assert not bool(many.isnan().any())
    assert torch.equal(op(slice(None), keeps=True), many), "training and prefill differ"
    for batch in BATCHES:
        rows = slice(77, 77 + batch)
        assert torch.equal(op(rows), many[rows]), f"batch {batch}"
        assert torch.equal(op(rows, keeps=True), many[rows]), f"batch {batch}, training"
    order = torch.randperm(MANY, device="cuda")
    assert torch.equal(op(order), many[order])


def test_experts_have_the_same_bits_with_every_tile() -> None:
    from forklight_kernels.moe_experts import triton_gpu

    x, weights, experts, w13, w2, _ = heavy_experts(300)
    inputs = triton_gpu.ExpertInputs(x_TD=x, weights_TK=weights, experts_TK=experts, w13_EFD=w13, w2_EID=w2)
    shipped = [
        *(tiles for _, tiles in triton_gpu.STREAM_TILES),
        triton_gpu.choose_tiles(32, 32, 768, torch.bfloat16, keeps=False),
        triton_gpu.TRAINING_TILES,
    ]
    outs = [triton_gpu.run(inputs, None, tiles) for tiles in shipped]
    for number, out in enumerate(outs):
        assert torch.equal(out, outs[0]), f"tiles {number}"


def test_token_with_an_expert_out_of_range_is_nan_and_no_other() -> None:
    x, weights, experts, w13, w2, _ = heavy_experts(64)
    experts[3, 1], experts[5, 0] = 32, -1
    out = moe_experts(x, weights, experts, w13, w2)
    assert out.isnan().any(1).nonzero().flatten().tolist() == [3, 5]


def test_decode_step_runs_inside_a_graph() -> None:
    """No host wait anywhere; and a replay over new tokens has their bits."""
    x, _, _, w13, w2, residual = heavy_experts(64)
    gate, out_weight = heavy(32, 2048, scale=0.01), heavy(2048, 2048, scale=0.02)

    def step(tokens: Tensor) -> Tensor:
        mixed = dense(tokens, out_weight, Residual(x_TD=residual, alpha=3.5, beta=1.0))
        routed = moe_router(mixed, gate, 2)
        joined = Residual(x_TD=mixed, alpha=3.5, beta=1.0)
        return moe_experts(mixed, routed.weights_TK, routed.experts_TK, w13, w2, joined)

    static = x.clone()
    step(static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(static)
    for _ in range(2):
        fresh = heavy(64, 2048)
        static.copy_(fresh)
        graph.replay()
        assert torch.equal(captured, step(fresh))
