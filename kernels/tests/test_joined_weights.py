"""Weights that lie one behind another: one product, the same numbers, and nothing for a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forklight_kernels import dense, dense_many, join_weights


def parameters(*heights: int, width: int = 12) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(height, width), requires_grad=False) for height in heights]


def test_joined_weights_keep_their_values_and_their_names() -> None:
    module = nn.Module()
    module.first, module.second = parameters(8, 5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    join_weights([module.first, module.second])
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) and value.is_contiguous()
    module.second.copy_(module.second * 2)
    assert torch.equal(module.first, before["first"])


def test_a_product_with_joined_weights_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from forklight_kernels.dense import joined

    heights: list[int] = []
    monkeypatch.setattr(joined, "dense", lambda x, weight: heights.append(len(weight)) or dense(x, weight))
    weights, x = parameters(8, 5, 3), torch.randn(7, 12)
    apart = dense_many(x, weights)
    join_weights(weights)
    together = dense_many(x, weights)
    assert heights == [8, 5, 3, 16]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_joining_again_moves_nothing() -> None:
    weights = parameters(8, 5)
    join_weights(weights)
    places = [weight.data_ptr() for weight in weights]
    join_weights(weights)
    assert places == [weight.data_ptr() for weight in weights]


def test_neighbours_in_another_order_are_not_one() -> None:
    first, second = parameters(8, 5)
    join_weights([first, second])
    x = torch.randn(7, 12)
    swapped = dense_many(x, [second, first])
    torch.testing.assert_close(swapped[0], x @ second.T)
    torch.testing.assert_close(swapped[1], x @ first.T)


def test_each_weight_has_its_own_gradient() -> None:
    weights, x = parameters(8, 5), torch.randn(7, 12)
    join_weights(weights)
    for weight in weights:
        weight.requires_grad_(True)
    sum(part.sum() for part in dense_many(x, weights)).backward()
    for weight in weights:
        torch.testing.assert_close(weight.grad, x.sum(0).expand_as(weight))


def test_weights_that_need_a_gradient_are_not_moved() -> None:
    weights = [weight.requires_grad_(True) for weight in parameters(8, 5)]
    with pytest.raises(ValueError, match="requires_grad_"):
        join_weights(weights)
