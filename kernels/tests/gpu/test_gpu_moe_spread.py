"""Experts spread over processes, played by threads of one GPU: the outputs have a single process's bits.

Their gradients need processes of their own: libs/model/tests/gpu/test_gpu_spread.py.
Legend: T tokens, K experts a token, D width, E experts, I expert width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from forklight_kernels import ExpertSpread, Residual, moe_experts, moe_experts_spread
from kernels.tests.trips import Meeting, Traveller

pytestmark = pytest.mark.gpu

Poisoned = Callable[[], AbstractContextManager[None]]

WIDTH, INNER, NUM_EXPERTS = 512, 256, 16


def randn(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device="cuda") * torch.randn(shape, device="cuda").exp() * scale).bfloat16()


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("lengths", [(1, 0), (17, 300), (64, 0, 3000, 500)])
def test_spread_experts_have_the_wholes_bits(
    lengths: tuple[int, ...], keeps: bool, poisoned: Poisoned
) -> None:
    num_tokens, size = sum(lengths), len(lengths)
    x, joined = randn(num_tokens, WIDTH), randn(num_tokens, WIDTH)
    weights = torch.softmax(torch.randn(num_tokens, 2, device="cuda"), dim=-1)
    experts = (torch.rand(num_tokens, NUM_EXPERTS, device="cuda") ** 3).argsort(dim=1)[:, :2]
    w13 = randn(NUM_EXPERTS, 2 * INNER, WIDTH, scale=0.05).requires_grad_(keeps)
    w2 = randn(NUM_EXPERTS, INNER, WIDTH, scale=0.05).requires_grad_(keeps)
    meeting = Meeting(size)

    def work(rank: int) -> Tensor:
        tokens = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
        own = slice(rank * NUM_EXPERTS // size, (rank + 1) * NUM_EXPERTS // size)
        spread = ExpertSpread(
            num_experts=NUM_EXPERTS,
            w13_EFD=w13[own],
            w2_EID=w2[own],
            start_trip=Traveller(meeting, rank).start_trip,
        )
        residual = Residual(x_TD=joined[tokens], alpha=3.5, beta=1.0)
        return moe_experts_spread(x[tokens], weights[tokens], experts[tokens], spread, residual)

    with poisoned():
        parts = meeting.run(work)
        residual = Residual(x_TD=joined, alpha=3.5, beta=1.0)
        assert torch.equal(torch.cat(parts), moe_experts(x, weights, experts, w13, w2, residual))
