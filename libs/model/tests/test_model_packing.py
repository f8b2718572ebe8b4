"""Packed sequences never meet, and recomputing activations changes nothing. Legend: T tokens, D width."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel, Recomputation
from forklight_model.routing import Routing

LENGTHS = (65, 1, 130, 7)


def offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def gradients_of(model: HybridModel, input_ids_T: Tensor, lengths: Sequence[int]) -> dict[str, Tensor]:
    """Gradients of a sum over tokens, so that those of parts add up to that of the whole."""
    model.zero_grad()
    stats = token_logprobs(model, input_ids_T, offsets(lengths), temperature=0.8)
    (stats.logprobs_T.sum() + 0.3 * stats.entropy_T.sum()).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def test_packed_sequences_equal_separate_ones_in_outputs_and_gradients(model: HybridModel) -> None:
    model = model.double()
    input_ids_T = torch.randint(103, (sum(LENGTHS),))
    parts = input_ids_T.split(list(LENGTHS))
    with torch.no_grad():
        together = token_logprobs(model, input_ids_T, offsets(LENGTHS))
        apart = [token_logprobs(model, part, offsets([len(part)])) for part in parts]
    torch.testing.assert_close(
        together.logprobs_T, torch.cat([stats.logprobs_T for stats in apart]), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(
        together.entropy_T, torch.cat([stats.entropy_T for stats in apart]), rtol=0, atol=1e-10
    )
    whole = gradients_of(model, input_ids_T, LENGTHS)
    summed = {name: torch.zeros_like(gradient) for name, gradient in whole.items()}
    for part in parts:
        for name, gradient in gradients_of(model, part, [len(part)]).items():
            summed[name] += gradient
    assert set(whole) == {name for name, _ in model.named_parameters()}
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, summed[name], rtol=1e-8, atol=1e-9, msg=name)


def test_gradient_matches_a_finite_difference(model: HybridModel) -> None:
    model = model.double()
    input_ids_T = torch.randint(103, (90,))
    analytic = gradients_of(model, input_ids_T, [40, 50])

    def value() -> float:
        with torch.no_grad():
            stats = token_logprobs(model, input_ids_T, offsets([40, 50]), temperature=0.8)
        return float(stats.logprobs_T.sum() + 0.3 * stats.entropy_T.sum())

    for name, parameter in model.named_parameters():
        if not name.startswith(
            ("model.layers.3.", "model.layers.7.", "model.embed", "model.norm", "lm_head")
        ):
            continue
        direction = torch.randn_like(parameter)
        step = 1e-6
        with torch.no_grad():
            parameter += step * direction
            above = value()
            parameter -= 2 * step * direction
            below = value()
            parameter += step * direction
        expected = float((analytic[name] * direction).sum())
        assert abs((above - below) / (2 * step) - expected) < 1e-4 * max(1.0, abs(expected)), name


RECOMPUTATIONS = (Recomputation(), Recomputation(keeps_experts=True, num_whole_layers=3))


@pytest.mark.parametrize("recomputation", RECOMPUTATIONS)
def test_recomputing_activations_gives_the_same_gradients_and_record(
    model: HybridModel, recomputation: Recomputation
) -> None:
    input_ids_T = torch.randint(103, (90,))
    kept = gradients_of(model, input_ids_T, [40, 50])
    model.recomputation = recomputation
    recomputed = gradients_of(model, input_ids_T, [40, 50])
    for name, gradient in kept.items():
        assert torch.equal(gradient, recomputed[name]), name
    routing = Routing()
    model.forward_hidden(input_ids_T, offsets([40, 50]), routing).sum().backward()
    assert routing.experts_LTK.shape == (8, 90, 2)


@pytest.mark.parametrize("recomputation", [None, *RECOMPUTATIONS])
def test_load_balancing_loss_reaches_the_routers_whatever_is_recomputed(
    model: HybridModel, recomputation: Recomputation | None
) -> None:
    input_ids_T = torch.randint(103, (60,))
    model.recomputation, routing = recomputation, Routing()
    model.forward_hidden(input_ids_T, offsets([20, 40]), routing)
    loss = routing.load_balancing_loss()
    loss.backward()
    gates = [layer.block_sparse_moe.gate.weight for layer in model.model.layers]
    assert all(float(gate.grad.abs().max()) > 0 for gate in gates)
    # By the published formula: all layers' tokens in one list, one-hot choices averaged a slot.
    probabilities, one_hot = [], []
    for layer in range(8):
        routed = routing._routed[layer]
        probabilities.append(torch.softmax(routed.logits_TE, dim=-1))
        one_hot.append(torch.nn.functional.one_hot(routed.experts_TK, 4).float())
    share_KE, mean_E = torch.cat(one_hot).mean(dim=0), torch.cat(probabilities).mean(dim=0)
    torch.testing.assert_close(loss, 4 * (share_KE * mean_E[None, :]).sum())


def test_a_replayed_pass_repeats_the_record_and_still_teaches_the_router(model: HybridModel) -> None:
    input_ids_T, first = torch.randint(103, (60,)), Routing()
    model.forward_hidden(input_ids_T, offsets([20, 40]), first)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.block_sparse_moe.gate.weight.add_(torch.randn_like(layer.block_sparse_moe.gate.weight))
    free, again = Routing(), Routing(replayed=first.recorded)
    model.forward_hidden(input_ids_T, offsets([20, 40]), free)
    model.forward_hidden(input_ids_T, offsets([20, 40]), again).sum().backward()
    assert not torch.equal(free.experts_LTK, first.experts_LTK)
    assert torch.equal(again.experts_LTK, first.experts_LTK)
    assert torch.equal(again.recorded.weights_LTK, first.recorded.weights_LTK)
    assert all(float(layer.block_sparse_moe.gate.weight.grad.abs().max()) > 0 for layer in model.model.layers)


def test_temperature_divides_the_logits(model: HybridModel) -> None:
    input_ids_T = torch.randint(103, (30,))
    with torch.no_grad():
        logits_TV = model.logits(model.forward_hidden(input_ids_T, offsets([30])))
        stats = token_logprobs(model, input_ids_T, offsets([30]), temperature=0.5)
    expected_TV = torch.log_softmax(logits_TV[:-1] / 0.5, dim=-1)
    torch.testing.assert_close(stats.logprobs_T[1:], expected_TV.gather(1, input_ids_T[1:, None]).squeeze(1))
    torch.testing.assert_close(stats.entropy_T[1:], -(expected_TV.exp() * expected_TV).sum(dim=-1))


def test_casting_the_model_keeps_the_decay_slopes_exact(model: HybridModel) -> None:
    before = model.model.layers[0].self_attn.slopes_H.clone()
    after = model.bfloat16().model.layers[0].self_attn.slopes_H
    assert after.dtype == torch.float32 and torch.equal(before, after)
