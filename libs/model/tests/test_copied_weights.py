"""Weights that change in place. Legend: B rows."""

from dataclasses import replace

import pytest
import torch

from forklight_core.errors import InvalidInputError
from forklight_model.cache import HybridCache
from forklight_model.config import ModelConfig
from forklight_model.inference import PromptPieces, copy_weights, decode, prefill
from forklight_model.model import HybridModel


def test_copied_weights_give_a_fresh_models_bits_in_the_same_tensors(config: ModelConfig) -> None:
    live, fresh = HybridModel(config), HybridModel(config)
    prompt_T, places = torch.randint(103, (20,)), [weight.data_ptr() for weight in live.parameters()]
    logits = []
    for changed in (False, True):
        if changed:
            copy_weights(live, fresh)
        for model in (live, fresh):
            cache = HybridCache(config, 1, 64)
            prefill(model, cache, PromptPieces(slots=[0], lengths=[20]), prompt_T)
            logits.append(decode(model, cache, 1, torch.tensor([7])))
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(logits[2], logits[3])
    assert [weight.data_ptr() for weight in live.parameters()] == places
    assert all(weight.requires_grad for weight in live.parameters())


def test_weights_of_another_shape_are_refused_before_any_is_copied(config: ModelConfig) -> None:
    live = HybridModel(config)
    before = live.lm_head.weight.detach().clone()
    for other in (replace(config, vocab_size=104), replace(config, intermediate_size=16)):
        with pytest.raises(InvalidInputError, match="in the model and"):
            copy_weights(live, HybridModel(other))
    assert torch.equal(live.lm_head.weight, before)
