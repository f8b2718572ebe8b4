"""Log-probabilities and gradients of a transformers model are transformers' own, however they are packed."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.hf.batches import cut_by_length
from forklight_model.hf.policy import HfPolicy
from forklight_model.logprobs import token_logprobs
from forklight_model.model import Recomputation
from forklight_model.routing import Routing
from libs.model.tests.hf.tiny import KINDS, tiny_policy

ENDS = (0, 1, 30, 32, 47, 47, 90)
"""Sequences of 1, 29, 2, 15, 0 and 43 tokens: several batches, and padding inside one."""


def packed(seed: int = 0) -> tuple[Tensor, Tensor]:
    ids_T = torch.randint(264, (ENDS[-1],), generator=torch.Generator().manual_seed(seed))
    return ids_T, torch.tensor(ENDS, dtype=torch.int32)


def their_logprobs(policy: HfPolicy, ids_T: Tensor, temperature: float = 1.0) -> Tensor:
    """By transformers' whole forward pass, one sequence at a time; 0 for a first token."""
    parts = []
    for start, end in pairwise(ENDS):
        if end > start:
            logits_LV = policy.native(input_ids=ids_T[None, start:end]).logits[0].float() / temperature
            chosen_L = logits_LV[:-1].log_softmax(-1).gather(1, ids_T[start + 1 : end, None]).squeeze(1)
            parts += [torch.zeros(1), chosen_L]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_packed_logprobs_are_those_of_transformers_one_sequence_at_a_time(kind: str) -> None:
    policy = tiny_policy(kind)
    ids_T, cu_seqlens = packed()
    for temperature in (1.0, 0.7):
        with torch.no_grad():
            stats = token_logprobs(policy, ids_T, cu_seqlens, temperature)
            expected_T = their_logprobs(policy, ids_T, temperature)
        torch.testing.assert_close(stats.logprobs_T, expected_T, rtol=0, atol=2e-5)
        assert float(stats.entropy_T[2:30].min()) > 0
        assert stats.logprobs_T.dtype == torch.float32


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_of_one_sequence_reaches_another(kind: str) -> None:
    policy = tiny_policy(kind)
    ids_T, cu_seqlens = packed()
    other_T, _ = packed(seed=1)
    mixed_T = torch.where(torch.arange(len(ids_T)) < ENDS[2], ids_T, other_T)
    with torch.no_grad():
        first_T, second_T = (
            token_logprobs(policy, each_T, cu_seqlens).logprobs_T for each_T in (ids_T, mixed_T)
        )
    torch.testing.assert_close(first_T[: ENDS[2]], second_T[: ENDS[2]], rtol=0, atol=1e-5)
    assert float((first_T - second_T)[ENDS[2] :].abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["llama", "qwen_moe"])
def test_gradients_are_those_of_transformers_plain_loss(kind: str) -> None:
    policy = tiny_policy(kind)
    ids_T, cu_seqlens = packed()
    weights_T = torch.linspace(-1, 1, len(ids_T))
    (token_logprobs(policy, ids_T, cu_seqlens).logprobs_T * weights_T).sum().backward()
    ours = {name: parameter.grad for name, parameter in policy.named_parameters()}
    policy.zero_grad(set_to_none=True)
    (their_logprobs(policy, ids_T) * weights_T).sum().backward()
    for name, parameter in policy.named_parameters():
        gradient, expected = ours[name], parameter.grad
        assert gradient is not None and expected is not None, name
        scale = float(expected.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-4 * scale)


def test_recomputed_layers_give_the_same_gradients_and_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    ids_T, cu_seqlens = packed()
    num_calls = 0
    layer = policy.stack.layers[1].self_attn
    forward = layer.forward

    def counted(*arguments: object, **named: object) -> object:
        nonlocal num_calls
        num_calls += 1
        return forward(*arguments, **named)

    monkeypatch.setattr(layer, "forward", counted)
    found = []
    for how in (None, Recomputation(), Recomputation(num_whole_layers=1), None):
        policy.recomputation = how
        policy.zero_grad(set_to_none=True)
        before = num_calls
        token_logprobs(policy, ids_T, cu_seqlens).logprobs_T.sum().backward()
        gradients = [parameter.grad for parameter in policy.parameters()]
        found.append((num_calls - before, gradients))
    plain, all_layers, but_the_last, again = found
    assert all_layers[0] == 2 * plain[0]
    assert but_the_last[0] == again[0] == plain[0]
    for _, gradients in (all_layers, but_the_last, again):
        assert all(torch.equal(one, other) for one, other in zip(gradients, plain[1], strict=True))
    with pytest.raises(ConfigError, match="keep no experts apart"):
        policy.recomputation = Recomputation(keeps_experts=True)


def test_a_copy_in_bf16_keeps_its_rotary_frequencies() -> None:
    policy = tiny_policy()
    narrow = copy.deepcopy(policy).to(torch.bfloat16)
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    frequencies = narrow.stack.rotary_emb.inv_freq
    assert torch.equal(frequencies, policy.stack.rotary_emb.inv_freq)
    assert narrow.head_weight is dict(narrow.named_parameters())["model.embed_tokens.weight"]
    ids_T, cu_seqlens = packed()
    with torch.no_grad():
        exact, rounded = (token_logprobs(each, ids_T, cu_seqlens).logprobs_T for each in (policy, narrow))
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((exact - rounded).abs().mean()) < 0.2


def test_dropout_of_a_config_is_not_the_policys() -> None:
    policy = tiny_policy("llama")
    policy.train()
    assert not any(module.training for module in policy.modules())


def test_routing_is_refused() -> None:
    ids_T, cu_seqlens = packed()
    with pytest.raises(InvalidInputError, match="parity.routing_replay"):
        token_logprobs(tiny_policy("qwen_moe"), ids_T, cu_seqlens, routing=Routing())


def test_batches_are_of_sequences_of_like_length() -> None:
    assert cut_by_length([10, 100, 80, 74, 9]) == [[1, 2], [3], [0, 4]]
    assert cut_by_length([]) == []
