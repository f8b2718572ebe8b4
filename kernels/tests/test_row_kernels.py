"""Norms, gate, activation, router, experts. Legend: T tokens, D width, E experts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forklight_kernels import (
    gated_norm,
    rms_norm,
    silu_split,
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
