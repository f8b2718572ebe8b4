"""Norms, gate, rotation of a pair. Legend: T tokens, D width, H and G heads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, gated_norm, rms_norm, rope, using_backend
from forklight_kernels.rope import rope_pair

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


def test_gated_norm_in_bf16_has_a_single_rounding() -> None:
    x_TD, gate_TD, weight_D = (torch.randn(shape).bfloat16() for shape in ((50, 64), (50, 64), (64,)))
    truth = gated_norm(x_TD.double(), gate_TD.double(), weight_D.double(), 1e-5)
    got = gated_norm(x_TD, gate_TD, weight_D, 1e-5)
    assert float(((got.double() - truth) / truth).abs().max()) < 2**-8
    with using_backend(Backend.NAIVE):
        torch.testing.assert_close(got, gated_norm(x_TD, gate_TD, weight_D, 1e-5), rtol=2**-7, atol=0)


@pytest.mark.parametrize("backend", [Backend.AUTOMATIC, Backend.NAIVE])
def test_rope_pair_is_rope_of_both(backend: Backend) -> None:
    q_THD, k_TGD, positions_T = torch.randn(7, 4, 16), torch.randn(7, 2, 16), torch.arange(7) * 999
    with using_backend(backend):
        pair = rope_pair(q_THD, k_TGD, positions_T, 8, 1e7)
        for turned, x in zip(pair, (q_THD, k_TGD), strict=True):
            assert torch.equal(turned, rope(x, positions_T, 8, 1e7))


def test_rope_in_bf16_has_a_single_rounding() -> None:
    x_THD, positions_T = torch.randn(50, 4, 16).bfloat16(), torch.arange(50) * 1601
    truth = rope(x_THD.double(), positions_T, 16, 1e7)
    got = rope(x_THD, positions_T, 16, 1e7)
    assert float((got == truth.bfloat16()).double().mean()) > 0.999
    with using_backend(Backend.NAIVE):
        torch.testing.assert_close(got, rope(x_THD, positions_T, 16, 1e7), rtol=2**-7, atol=1e-6)
