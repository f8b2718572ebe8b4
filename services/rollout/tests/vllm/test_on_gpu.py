"""What only a GPU can show: the trainer's bits from recorded steps, new weights for vLLM's own models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.parity import SELF_TEST, check_numeric_mode
from forklight_rollout.adapters.vllm import VllmEngine, VllmOptions, vllm_engine_factory
from forklight_rollout.ports import SequenceStart
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.engine_contract import PROMPT, begin, ending, finish
from services.rollout.tests.vllm.conftest import CACHE_BYTES
from services.rollout.tests.vllm.publishing import publish, publish_tensors
from services.rollout.tests.vllm.test_other_models import random_llama

pytestmark = [pytest.mark.vllm, pytest.mark.gpu]

OPTIONS = VllmOptions(
    dtype="bfloat16", num_sequences=8, max_tokens=500, cache_bytes=8 * CACHE_BYTES, step_tokens=64
)


@pytest.fixture
def made() -> Iterator[list[VllmEngine]]:
    """Engines of a test, closed after it."""
    engines: list[VllmEngine] = []
    yield engines
    for engine in engines:
        engine.close()


def start(made: list[VllmEngine], weights: PublishedWeights) -> VllmEngine:
    engine = vllm_engine_factory(OPTIONS)(weights)
    assert isinstance(engine, VllmEngine)
    made.append(engine)
    return engine


def self_test_model(seed: int) -> HybridModel:
    torch.manual_seed(seed)
    return HybridModel(SELF_TEST).to(torch.bfloat16).requires_grad_(False)


def test_sampled_logprobs_have_the_trainers_bits_where_the_contract_holds(
    made: list[VllmEngine], tmp_path: Path
) -> None:
    if not check_numeric_mode("cuda", torch.bfloat16).is_parity:
        pytest.skip("this GPU does not keep the numeric contract")
    models = [self_test_model(seed) for seed in (0, 1)]
    published = [publish(tmp_path, model, version) for version, model in enumerate(models)]
    engine = start(made, published[0])
    assert engine.traits.is_batch_invariant
    for model, weights in zip(models, published, strict=True):
        if engine.version != weights.version:
            engine.stage(weights)
            engine.swap()
        model.to("cuda")
        starts = [SequenceStart(key=0, seed=seed) for seed in range(8)]
        for sampled in finish(engine, begin(engine, starts, ending(200))):
            ids = torch.tensor([*PROMPT, *sampled.ids], device="cuda")
            cu_seqlens = torch.tensor([0, len(ids)], dtype=torch.int32, device="cuda")
            expected_R = token_logprobs(model, ids, cu_seqlens).logprobs_T[-200:].cpu()
            assert int((torch.tensor(sampled.raw_logprobs) != expected_R).sum()) == 0


def test_a_dense_model_takes_new_weights(made: list[VllmEngine], tmp_path: Path) -> None:
    models = [random_llama(seed).to(torch.bfloat16) for seed in (0, 1)]
    config = models[0].config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    published = [
        publish_tensors(
            tmp_path, {name: each.contiguous() for name, each in model.state_dict().items()}, config, version
        )
        for version, model in enumerate(models)
    ]
    engine = start(made, published[0])
    ids = list(PROMPT)
    before = torch.tensor(engine.score(ids))
    engine.stage(published[1])
    engine.swap()
    after = torch.tensor(engine.score(ids))
    for found, model in ((before, models[0]), (after, models[1])):
        logits_TV = model.to("cuda")(torch.tensor([ids], device="cuda")).logits[0, :-1].float()
        expected = torch.log_softmax(logits_TV, dim=-1).cpu()[torch.arange(len(ids) - 1), ids[1:]]
        assert float((found - expected).abs().mean()) < 0.1
    assert float((before - after).abs().mean()) > 0.5
