"""The router's part of a step: its auxiliary loss, and replaying what rollout's routers chose."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forklight_core.errors import ParityError
from forklight_core.runfile import RunFile
from forklight_core.wire import RoutingArrays
from forklight_model.config import ModelConfig
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.routing import Routing
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingSample
from forklight_trainer.batches.packing import Pack, pack_samples
from forklight_trainer.batches.replay import replay_routing
from forklight_trainer.loss.objective import LikelihoodObjective
from forklight_trainer.loss.policy_loss import policy_loss
from forklight_trainer.steps.step import StepSettings, accumulate, step_settings
from forklight_trainer.steps.tally import Tally

Maker = Any
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
NUM_EXPERTS, TOP_K, NUM_LAYERS = 4, 2, 2


def routed_model(config: ModelConfig, seed: int = 0) -> HybridModel:
    """With more experts than one, so that routers have something to decide."""
    wider = dataclasses.replace(
        config, num_local_experts=NUM_EXPERTS, num_experts_per_tok=TOP_K, router_aux_loss_coef=0.5
    )
    model = HybridModel(wider, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def config(make_model: Callable[[int], HybridModel]) -> ModelConfig:
    return make_model(0).config


@pytest.fixture
def samples(config: ModelConfig) -> list[TrainingSample]:
    """What a pod with `routed_model` would send: log-probs and choices of its own pass."""
    chance, model = np.random.default_rng(0), routed_model(config)
    return [generated(model, index, chance) for index in range(4)]


def generated(model: HybridModel, index: int, chance: np.random.Generator) -> TrainingSample:
    prompt = chance.integers(7, 103, size=4 + index, dtype=np.int32)
    response = chance.integers(7, 103, size=9 - index, dtype=np.int32)
    ids_T = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))
    routing = Routing()
    with torch.no_grad():
        stats = token_logprobs(model, ids_T, torch.tensor([0, len(ids_T)], dtype=torch.int32), 1.0, routing)
    recorded = routing.recorded
    return TrainingSample(
        sample_id=f"r/g00000000/s{index:03d}",
        prompt_ids=prompt,
        response_ids=response,
        behaviour_logprobs=stats.logprobs_T[len(prompt) :].numpy(),
        versions=np.zeros(len(response), dtype=np.int64),
        reward=float(index % 2),
        pod="rollout-3",
        routing=RoutingArrays(
            experts=recorded.experts_LTK[:, :-1].transpose(0, 1).to(torch.uint8).numpy(),
            weights=recorded.weights_LTK[:, :-1].transpose(0, 1).numpy(),
        ),
    )


def settings_of(**sections: dict[str, object]) -> StepSettings:
    return step_settings(RunFile.model_validate(sections))


def accumulated(
    model: HybridModel, packs: list[Pack], settings: StepSettings
) -> tuple[Tally, dict[str, Tensor]]:
    tally = accumulate(TorchEngine(model, ADAM), packs, settings)
    return tally, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


ADVANTAGES = (-1.0, 1.0, -1.0, 1.0)


def test_auxiliary_loss_when_on_adds_the_published_formulas_gradient(
    config: ModelConfig, samples: list[TrainingSample]
) -> None:
    packs = pack_samples(samples, ADVANTAGES, pack_tokens=30)
    assert len(packs) > 1
    model = routed_model(config)
    plain_tally, plain = accumulated(routed_model(config), packs, settings_of())
    tally, found = accumulated(model, packs, settings_of(trainer={"router_auxiliary_loss": True}))
    model.zero_grad()
    share = {id(pack): len(pack.input_ids_T) / 52 for pack in packs}
    expected = sum((formula(model, pack) * share[id(pack)] for pack in packs), torch.zeros(()))
    assert plain_tally.router_loss is None
    assert tally.router_loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert tally.loss == plain_tally.loss
    (0.5 * expected).backward()  # type: ignore[no-untyped-call]
    gate = "model.layers.1.block_sparse_moe.gate.weight"
    own = dict(model.named_parameters())[gate].grad
    assert own is not None and float(own.abs().max()) > 1e-4
    torch.testing.assert_close(found[gate], plain[gate] + own, rtol=1e-4, atol=1e-7)


def formula(model: HybridModel, pack: Pack) -> Tensor:
    """Experts x sum of (share of choices) x (mean probability), over all layers, from hidden states alone."""
    seen: list[Tensor] = []
    hooks = [
        block.block_sparse_moe.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        for block in model.model.layers
    ]
    token_logprobs(model, pack.input_ids_T, pack.cu_seqlens)
    for hook in hooks:
        hook.remove()
    gates = [block.block_sparse_moe.gate.weight for block in model.model.layers]
    probability_TE = torch.cat(
        [torch.softmax(x_TD @ gate_ED.t(), dim=-1) for x_TD, gate_ED in zip(seen, gates, strict=True)]
    )
    chosen_TK = probability_TE.topk(TOP_K).indices
    chosen_TE = torch.zeros_like(probability_TE).scatter(1, chosen_TK, 1.0)
    return NUM_EXPERTS * (chosen_TE.mean(0) * probability_TE.mean(0)).sum()


def test_auxiliary_loss_when_off_changes_no_bit(config: ModelConfig, samples: list[TrainingSample]) -> None:
    (pack,) = pack_samples(samples, ADVANTAGES, pack_tokens=64)
    settings, bare = settings_of(), routed_model(config)
    _, found = accumulated(routed_model(config), [pack], settings)
    stats = token_logprobs(bare, pack.input_ids_T, pack.cu_seqlens)
    parts = policy_loss(
        stats.logprobs_T[pack.response_index_R],
        pack.behaviour_R,
        pack.advantages_R,
        settings=settings.loss,
        weights_R=pack.weights_R,
    )
    parts.loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in bare.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(found[name], parameter.grad), name


def test_replay_when_routers_moved_repeats_rollouts_experts_and_teaches_the_router(
    config: ModelConfig, samples: list[TrainingSample]
) -> None:
    model = routed_model(config)
    with torch.no_grad():
        for block in model.model.layers:
            gate_ED = block.block_sparse_moe.gate.weight
            gate_ED.add_(0.05 * torch.randn(gate_ED.shape, generator=torch.Generator().manual_seed(1)))
    (pack,) = replay_routing(pack_samples(samples, ADVANTAGES, pack_tokens=64), samples, model.config)
    assert pack.routing is not None
    free, replayed = Routing(), Routing(pack.routing)
    token_logprobs(model, pack.input_ids_T, pack.cu_seqlens, 1.0, free)
    stats = token_logprobs(model, pack.input_ids_T, pack.cu_seqlens, 1.0, replayed)
    assert not torch.equal(free.recorded.experts_LTK, pack.routing.experts_LTK.long())
    assert torch.equal(replayed.recorded.experts_LTK, pack.routing.experts_LTK.long())
    assert torch.equal(replayed.recorded.weights_LTK, pack.routing.weights_LTK)
    engine = TorchEngine(model, ADAM)
    scored = engine.score(pack, 1.0)
    torch.testing.assert_close(scored.logprobs_T, stats.logprobs_T.detach(), rtol=0, atol=1e-5)
    # Only the routers moved: with their choices replayed, the trainer's log-probs are rollout's again.
    torch.testing.assert_close(scored.logprobs_T[pack.response_index_R], pack.behaviour_R, rtol=0, atol=1e-5)
    engine.accumulate([pack], LikelihoodObjective())
    gradients = [block.block_sparse_moe.gate.weight.grad for block in model.model.layers]
    assert all(gradient is not None and float(gradient.abs().max()) > 0 for gradient in gradients)


def test_replay_when_only_routers_moved_gives_what_follows_them_rollouts_gradient(
    config: ModelConfig, samples: list[TrainingSample]
) -> None:
    moved, settings = routed_model(config), settings_of()
    with torch.no_grad():
        for block in moved.model.layers:
            gate_ED = block.block_sparse_moe.gate.weight
            gate_ED.add_(0.05 * torch.randn(gate_ED.shape, generator=torch.Generator().manual_seed(1)))
    free = copy.deepcopy(moved)
    plain = pack_samples(samples, ADVANTAGES, pack_tokens=30)
    packs = replay_routing(plain, samples, moved.config)
    expected_tally, expected = accumulated(routed_model(config), plain, settings)
    tally, found = accumulated(moved, packs, settings)
    _, strayed = accumulated(free, plain, settings)
    assert tally.loss == pytest.approx(expected_tally.loss, rel=1e-4)
    assert expected.keys() == found.keys()
    # What stands before a router gets a part of its gradient through the router as it is now.
    behind = [n for n in expected if "layers.1.block_sparse_moe.experts" in n or "layers" not in n]
    behind.remove("model.embed_tokens.weight")
    assert len(behind) >= 3
    for name in behind:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6, msg=name)
        assert not torch.allclose(strayed[name], expected[name], rtol=1e-3, atol=1e-6), name
    assert all(bool(gradient.any()) for gradient in found.values())


def test_replay_when_samples_share_a_pack_puts_every_choice_at_its_token(
    config: ModelConfig, samples: list[TrainingSample]
) -> None:
    packs = replay_routing(
        pack_samples(samples, ADVANTAGES, pack_tokens=30), samples, routed_model(config).config
    )
    for pack in packs:
        assert pack.routing is not None
        assert pack.routing.experts_LTK.shape == (NUM_LAYERS, len(pack.input_ids_T), TOP_K)
        for place, index in enumerate(pack.sample_indices):
            start, end = pack.cu_seqlens[place : place + 2].tolist()
            recorded = samples[index].routing
            assert recorded is not None
            laid_TLK = pack.routing.experts_LTK[:, start:end].transpose(0, 1)
            assert laid_TLK[:-1].tolist() == recorded.experts.tolist()
            assert laid_TLK[-1].tolist() == recorded.experts[-1].tolist()
            weights_TLK = pack.routing.weights_LTK[:, start : end - 1].transpose(0, 1)
            assert weights_TLK.tolist() == recorded.weights.tolist()


def spoiled(sample: TrainingSample, *, experts: int = 0, layers: int = NUM_LAYERS) -> RoutingArrays:
    shape = (sample.num_tokens - 1, layers, TOP_K)
    return RoutingArrays(
        experts=np.full(shape, experts, dtype=np.uint8), weights=np.full(shape, 0.5, dtype=np.float32)
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda sample: None, "has no recorded routing"),
        (lambda sample: spoiled(sample, layers=3), r"shape \(12, 3, 2\).*another model"),
        (lambda sample: spoiled(sample, experts=NUM_EXPERTS), "expert 4 of 4"),
    ],
)
def test_replay_when_a_sample_has_no_usable_choices_names_sample_and_pod(
    config: ModelConfig,
    samples: list[TrainingSample],
    make: Callable[[TrainingSample], RoutingArrays | None],
    reason: str,
) -> None:
    samples[2] = dataclasses.replace(samples[2], routing=make(samples[2]))
    packs = pack_samples(samples, ADVANTAGES, pack_tokens=64)
    with pytest.raises(ParityError, match=rf"sample r/g00000000/s002 of pod 'rollout-3' .*{reason}"):
        replay_routing(packs, samples, routed_model(config).config)
