"""The head of a bf16 model: products and sums in fp32 of the numbers as bf16 stores them, in both directions.

Tolerance: 1e-5 in a log-prob, where bf16 products would be off by more than 1e-3; gradients agree to bf16's
own rounding, 2^-8 of themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel

TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 0.7])


def bf16_model(make_model: Callable[[int], HybridModel]) -> HybridModel:
    """With a head large enough that rounding shows."""
    model = make_model(0)
    with torch.no_grad():
        model.lm_head.weight.mul_(10.0)
    return model.to(torch.bfloat16)


def token_ids(num_tokens: int = 60) -> Tensor:
    return torch.randint(7, 103, (num_tokens,), generator=torch.Generator().manual_seed(0))


def reference(hidden_TD: Tensor, weight_VD: Tensor, ids_T: Tensor, temperature: float) -> Tensor:
    """Log-probs of the next tokens: an fp32 product of the stored operands."""
    logits_TV = (hidden_TD.float() @ weight_VD.float().t()) / temperature
    return torch.log_softmax(logits_TV, dim=-1).gather(1, ids_T.roll(-1)[:, None])[:, 0]


@TEMPERATURES
def test_logprobs_when_the_model_is_bf16_are_an_fp32_product_of_what_it_stores(
    make_model: Callable[[int], HybridModel], temperature: float
) -> None:
    model, ids_T = bf16_model(make_model), token_ids()
    ends = torch.tensor([0, 25, 60], dtype=torch.int32)
    with torch.no_grad():
        found_T = token_logprobs(model, ids_T, ends, temperature).logprobs_T
        hidden_TD = model.forward_hidden(ids_T, ends)
        expected_T = reference(hidden_TD, model.lm_head.weight, ids_T, temperature).roll(1)
        rounded_TV = (hidden_TD @ model.lm_head.weight.t()).float() / temperature
        rounded_T = torch.log_softmax(rounded_TV, dim=-1).gather(1, ids_T.roll(-1)[:, None])[:, 0].roll(1)
    assert (hidden_TD.dtype, model.lm_head.weight.dtype, found_T.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    inside = torch.ones(60, dtype=torch.bool)
    inside[[0, 25]] = False
    assert not found_T[~inside].any()
    assert float((found_T - expected_T)[inside].abs().max()) < 1e-5
    assert float((found_T - rounded_T)[inside].abs().max()) > 1e-3, "a bf16 head would pass this test too"


@TEMPERATURES
def test_gradients_when_the_model_is_bf16_reach_head_and_hidden_state_as_in_fp32(
    make_model: Callable[[int], HybridModel], temperature: float
) -> None:
    model, ids_T = bf16_model(make_model), token_ids()
    with torch.no_grad():
        hidden_TD = model.forward_hidden(ids_T, torch.tensor([0, 60], dtype=torch.int32))
    signs_T = torch.linspace(-1.0, 2.0, 60)
    found = []
    for compute in (
        lambda h, w: model.token_stats(h, ids_T.roll(-1), temperature)[0],
        lambda h, w: reference(h, w, ids_T, temperature),
    ):
        leaf_TD = hidden_TD.clone().requires_grad_()
        model.zero_grad()
        (compute(leaf_TD, model.lm_head.weight) * signs_T).sum().backward()
        assert leaf_TD.grad is not None and model.lm_head.weight.grad is not None
        found.append((leaf_TD.grad.clone(), model.lm_head.weight.grad.clone()))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == torch.bfloat16
        assert float(theirs.abs().max()) > 0.01
        scale = float(theirs.float().abs().max())
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=2**-7, atol=2**-9 * scale)


def test_gradients_when_the_model_is_bf16_reach_every_parameter(
    make_model: Callable[[int], HybridModel],
) -> None:
    model, ids_T = bf16_model(make_model), token_ids()
    stats = token_logprobs(model, ids_T, torch.tensor([0, 60], dtype=torch.int32))
    (stats.logprobs_T * torch.linspace(-1.0, 2.0, 60)).sum().backward()  # type: ignore[no-untyped-call]
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.any())
    ]
    # One expert a token: its weight is renormalised to 1, so there is nothing for a router to learn.
    assert still == [f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in (0, 1)]
