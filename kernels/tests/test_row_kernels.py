"""Norms, gate, activation, router, experts, head. Legend: T tokens, D width, E experts, V vocabulary."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forklight_kernels import (
    Backend,
    gated_norm,
    moe_experts,
    moe_router,
    rms_norm,
    silu_split,
    token_stats,
    using_backend,
)

LENGTHS = [1, 63, 64, 65, 500]
Check = Callable[..., None]


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_rms_norm_matches_naive(num_tokens: int, assert_matches_naive: Check) -> None:
    def op(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, 1e-5)

    assert_matches_naive(op, torch.randn(num_tokens, 24) * 3, torch.randn(24))


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_gated_norm_matches_naive(num_tokens: int, assert_matches_naive: Check) -> None:
    def op(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
        return gated_norm(x, gate, weight, 1e-5)

    assert_matches_naive(op, torch.randn(num_tokens, 24), torch.randn(num_tokens, 24), torch.randn(24))


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_silu_split_matches_naive(num_tokens: int, assert_matches_naive: Check) -> None:
    def op(x: Tensor) -> tuple[Tensor, ...]:
        return silu_split(x, 2)

    assert_matches_naive(op, torch.randn(num_tokens, 2 * 3 * 4))


def test_silu_split_gradient_is_right_when_one_part_is_used_twice(assert_matches_naive: Check) -> None:
    def op(x: Tensor) -> Tensor:
        q, k, v = silu_split(x, 2)
        return q * k + q * v

    assert_matches_naive(op, torch.randn(9, 2 * 3 * 4))


@pytest.mark.parametrize("top_k", [1, 2, 6])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_router_matches_naive(num_tokens: int, top_k: int, assert_matches_naive: Check) -> None:
    def op(logits: Tensor) -> tuple[Tensor, Tensor]:
        return moe_router(logits, top_k)

    assert_matches_naive(op, torch.randn(num_tokens, 8))


@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("top_k", [2, 6])
def test_router_gives_ties_to_the_lowest_expert(backend: Backend, top_k: int) -> None:
    with using_backend(backend):
        weights_TK, experts_TK = moe_router(torch.zeros(300, 32), top_k)
    assert torch.equal(experts_TK, torch.arange(top_k).expand(300, top_k))
    torch.testing.assert_close(weights_TK, torch.full((300, top_k), 1 / top_k))


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_experts_match_naive(num_tokens: int, top_k: int, assert_matches_naive: Check) -> None:
    num_experts, width, inner = 5, 12, 6
    # Expert 4 is never chosen: its gradient must be zero, not unset memory.
    weights_TK, experts_TK = moe_router(torch.randn(num_tokens, num_experts - 1), top_k)

    def op(x: Tensor, weights: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        return moe_experts(x, weights, experts_TK, w13, w2)

    assert_matches_naive(
        op,
        torch.randn(num_tokens, width),
        weights_TK,
        torch.randn(num_experts, 2 * inner, width),
        torch.randn(num_experts, inner, width),
    )


def test_experts_agree_between_few_and_many_tokens() -> None:
    """The dense path of a small batch and the sorted path of a large one are the same function."""
    x_TD, w13, w2 = torch.randn(4000, 12), torch.randn(4, 12, 12), torch.randn(4, 6, 12)
    weights_TK, experts_TK = moe_router(torch.randn(4000, 4), 2)
    many = moe_experts(x_TD, weights_TK, experts_TK, w13, w2)
    few = moe_experts(x_TD[:8], weights_TK[:8], experts_TK[:8], w13, w2)
    torch.testing.assert_close(many[:8], few, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_token_stats_match_naive(num_tokens: int, temperature: float, assert_matches_naive: Check) -> None:
    targets_T = torch.randint(50, (num_tokens,))

    def op(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_stats(hidden, weight, targets_T, temperature)

    assert_matches_naive(op, torch.randn(num_tokens, 16), torch.randn(50, 16))


def test_token_stats_match_naive_over_several_pieces(assert_matches_naive: Check) -> None:
    vocab_size = 1 << 15  # 8 tokens a piece
    targets_T = torch.randint(vocab_size, (21,))

    def op(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_stats(hidden, weight, targets_T)

    assert_matches_naive(op, torch.randn(21, 8), torch.randn(vocab_size, 8))
