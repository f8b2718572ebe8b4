"""Product, router and experts on a CPU.

Legend: T tokens, D width, E experts, K experts a token, I expert width.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, Residual, RoutedTokens, dense, moe_experts, moe_router, using_backend

LENGTHS = [1, 63, 64, 65, 500]
Check = Callable[..., None]


def unpack(routed: RoutedTokens) -> tuple[Tensor, Tensor, Tensor]:
    return routed.weights_TK, routed.experts_TK, routed.logits_TE


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_dense_matches_naive(num_tokens: int, assert_matches_naive: Check) -> None:
    assert_matches_naive(dense, torch.randn(num_tokens, 24), torch.randn(40, 24))


def test_dense_with_residual_matches_naive(assert_matches_naive: Check) -> None:
    def op(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return dense(x, weight, Residual(x_TD=residual, alpha=3.5, beta=0.5))

    assert_matches_naive(op, torch.randn(65, 24), torch.randn(40, 24), torch.randn(65, 40))


@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
def test_dense_widens_before_it_sums_when_asked_for_fp32(backend: Backend) -> None:
    x, weight = torch.randn(3, 24).bfloat16(), torch.randn(40, 24).bfloat16()
    with using_backend(backend):
        out = dense(x, weight, out_dtype=torch.float32)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, x.float() @ weight.float().T)


@pytest.mark.parametrize("top_k", [1, 2, 6])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_router_matches_naive(num_tokens: int, top_k: int, assert_matches_naive: Check) -> None:
    def op(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return unpack(moe_router(x, weight, top_k))

    assert_matches_naive(op, torch.randn(num_tokens, 12), torch.randn(8, 12))


def test_replayed_router_matches_naive(assert_matches_naive: Check) -> None:
    given_TK = torch.stack([torch.randperm(8)[:3] for _ in range(65)])

    def op(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return unpack(moe_router(x, weight, 3, given_TK))

    assert_matches_naive(op, torch.randn(65, 12), torch.randn(8, 12))


def test_router_replays_its_own_choice_when_given_it() -> None:
    x, weight = torch.randn(65, 12), torch.randn(8, 12)
    routed = moe_router(x, weight, 2)
    replayed = moe_router(x, weight, 2, routed.experts_TK)
    assert torch.equal(replayed.experts_TK, routed.experts_TK)
    torch.testing.assert_close(replayed.weights_TK, routed.weights_TK)


@pytest.mark.parametrize("backend", [Backend.AUTOMATIC, Backend.NAIVE, Backend.TORCH])
@pytest.mark.parametrize("top_k", [2, 6])
def test_router_gives_ties_to_the_lowest_expert(backend: Backend, top_k: int) -> None:
    with using_backend(backend):
        routed = moe_router(torch.randn(300, 4), torch.zeros(32, 4), top_k)
    assert torch.equal(routed.experts_TK, torch.arange(top_k).expand(300, top_k))
    torch.testing.assert_close(routed.weights_TK, torch.full((300, top_k), 1 / top_k))


def route(num_tokens: int, num_experts: int, top_k: int) -> tuple[Tensor, Tensor]:
    routed = moe_router(torch.randn(num_tokens, 4), torch.randn(num_experts, 4), top_k)
    return routed.weights_TK, routed.experts_TK


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_experts_match_naive(num_tokens: int, top_k: int, assert_matches_naive: Check) -> None:
    num_experts, width, inner = 5, 12, 6
    # Expert 4 is never chosen: its gradient must be zero, not unset memory.
    weights_TK, experts_TK = route(num_tokens, num_experts - 1, top_k)

    def op(x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        return moe_experts(x, weights, experts_TK, w13, w2)

    assert_matches_naive(
        op,
        torch.randn(num_tokens, width),
        weights_TK,
        torch.randn(num_experts, 2 * inner, width),
        torch.randn(num_experts, inner, width),
    )


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_experts_with_residual_match_naive(beta: float, assert_matches_naive: Check) -> None:
    weights_TK, experts_TK = route(65, 5, 2)

    def op(x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, residual: Tensor) -> Tensor:
        return moe_experts(x, weights, experts_TK, w13, w2, Residual(x_TD=residual, alpha=3.5, beta=beta))

    matrices = torch.randn(5, 12, 12), torch.randn(5, 6, 12)
    assert_matches_naive(op, torch.randn(65, 12), weights_TK, *matrices, torch.randn(65, 12))


def test_experts_of_no_tokens_are_no_rows() -> None:
    x, w13, w2 = torch.randn(0, 12), torch.randn(4, 12, 12), torch.randn(4, 6, 12)
    assert moe_experts(x, torch.ones(0, 2), torch.zeros(0, 2).long(), w13, w2).shape == (0, 12)


def test_experts_agree_between_few_and_many_tokens() -> None:
    """The dense path of a small batch and the sorted path of a large one are the same function."""
    x_TD, w13, w2 = torch.randn(4000, 12), torch.randn(4, 12, 12), torch.randn(4, 6, 12)
    weights_TK, experts_TK = route(4000, 4, 2)
    many = moe_experts(x_TD, weights_TK, experts_TK, w13, w2)
    few = moe_experts(x_TD[:8], weights_TK[:8], experts_TK[:8], w13, w2)
    torch.testing.assert_close(many[:8], few, rtol=1e-5, atol=1e-5)


def bad_calls() -> dict[str, tuple[Callable[[], object], str]]:
    x, w13, w2 = torch.randn(4, 8), torch.randn(3, 12, 8), torch.randn(3, 6, 8)
    weights, experts = torch.ones(4, 2), torch.zeros(4, 2).long()
    far = Residual(x_TD=torch.randn(4, 9), alpha=1.0, beta=1.0)
    return {
        "dense of one dim": (lambda: dense(x[0], w13[0]), "expected 2 dims"),
        "dense of other width": (lambda: dense(x, torch.randn(5, 9)), "must be equal"),
        "dense of two dtypes": (lambda: dense(x, w13[0].double()), "weight is float64"),
        "dense residual": (lambda: dense(x, w13[0], far), "residual has shape"),
        "router of many": (lambda: moe_router(x, torch.randn(257, 8), 2), "at most 256"),
        "router top_k": (lambda: moe_router(x, torch.randn(3, 8), 4), "top_k is 4"),
        "router width": (lambda: moe_router(x, torch.randn(3, 9), 2), "must be equal"),
        "replay shape": (lambda: moe_router(x, torch.randn(3, 8), 2, experts[:3]), "experts has shape"),
        "replay dtype": (lambda: moe_router(x, torch.randn(3, 8), 2, weights), "experts is float32"),
        "experts w13": (lambda: moe_experts(x, weights, experts, w13[:, :11], w2), "w13 has shape"),
        "experts width": (lambda: moe_experts(x[:, :7], weights, experts, w13, w2), "must be equal"),
        "experts weights": (lambda: moe_experts(x, weights[:3], experts, w13, w2), "weights is"),
        "experts chosen": (lambda: moe_experts(x, weights, experts[:, :1], w13, w2), "experts has shape"),
        "experts dtype": (lambda: moe_experts(x, weights, weights, w13, w2), "experts is float32"),
        "experts residual": (lambda: moe_experts(x, weights, experts, w13, w2, far), "residual has shape"),
        "many experts": (
            lambda: moe_experts(x, weights, experts, torch.randn(257, 2, 8), torch.randn(257, 1, 8)),
            "257 experts",
        ),
    }


@pytest.mark.parametrize("name", list(bad_calls()))
def test_bad_input_is_refused_by_name(name: str) -> None:
    call, message = bad_calls()[name]
    with pytest.raises(ValueError, match=message):
        call()
