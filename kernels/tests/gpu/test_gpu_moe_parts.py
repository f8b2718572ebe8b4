"""Experts cut into parts, on one GPU: side by side the parts' columns have the whole op's bits.

Legend: T tokens, K experts a token, D width, E experts, I expert width, R hidden rows.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from forklight_kernels import ExpertPart, Residual, moe_experts, moe_experts_part

pytestmark = pytest.mark.gpu

Poisoned = Callable[[], AbstractContextManager[None]]

WIDTH, INNER, NUM_EXPERTS = 512, 256, 16


def run_part(inputs: dict[str, Tensor], rank: int, size: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
    rows, columns = (slice(rank * each // size, (rank + 1) * each // size) for each in (INNER, WIDTH))
    part = ExpertPart(
        w13_EFD=inputs["w13"].view(NUM_EXPERTS, 2, INNER, WIDTH)[:, :, rows].reshape(NUM_EXPERTS, -1, WIDTH),
        w2_EID=inputs["w2"][:, :, columns].contiguous(),
        gather_columns=gather,
    )
    residual = Residual(x_TD=inputs["residual"][:, columns], alpha=3.5, beta=1.0)
    return moe_experts_part(inputs["x"], inputs["weights"], inputs["experts"], part, residual)


@torch.no_grad()
@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("num_tokens", [1, 17, 64, 256, 3000])
def test_parts_side_by_side_have_the_wholes_bits(num_tokens: int, size: int, poisoned: Poisoned) -> None:
    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return (
            torch.randn(shape, device="cuda") * torch.randn(shape, device="cuda").exp() * scale
        ).bfloat16()

    inputs = {
        "x": randn(num_tokens, WIDTH),
        "weights": torch.softmax(torch.randn(num_tokens, 2, device="cuda"), dim=-1),
        "experts": torch.rand(num_tokens, NUM_EXPERTS, device="cuda").argsort(dim=1)[:, :2],
        "w13": randn(NUM_EXPERTS, 2 * INNER, WIDTH, scale=0.05),
        "w2": randn(NUM_EXPERTS, INNER, WIDTH, scale=0.05),
        "residual": randn(num_tokens, WIDTH),
    }
    given: list[Tensor] = []

    def note(part_RI: Tensor) -> Tensor:
        given.append(part_RI.clone())
        return part_RI.repeat(1, size)

    with poisoned():
        for rank in range(size):
            run_part(inputs, rank, size, note)
        whole_RI = torch.cat(given, dim=1)
        parts = [run_part(inputs, rank, size, lambda _: whole_RI) for rank in range(size)]
        residual = Residual(x_TD=inputs["residual"], alpha=3.5, beta=1.0)
        arguments = (inputs["x"], inputs["weights"], inputs["experts"], inputs["w13"], inputs["w2"], residual)
        assert torch.equal(torch.cat(parts, dim=1), moe_experts(*arguments))
