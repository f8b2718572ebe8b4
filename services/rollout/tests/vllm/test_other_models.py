"""A model that is not ours, through vLLM's own classes: the same promises, and how its death is told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest
import torch

from forklight_core.errors import UnavailableError, WeightsError
from forklight_rollout.adapters.vllm import VllmEngine, VllmOptions, vllm_engine_factory
from forklight_rollout.ports import DrawRules, SequenceStart
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.engine_contract import (
    CHECKS,
    PROMPT,
    EngineCase,
    begin,
    check_bad_weights_change_nothing,
    check_swapped_weights_are_the_ones_that_draw,
    check_versions_switch_once_over_a_swap,
    ending,
    finish,
    sample,
    step_until,
)
from services.rollout.tests.vllm.conftest import CACHE_BYTES
from services.rollout.tests.vllm.publishing import publish_tensors

pytestmark = pytest.mark.vllm

NEEDS_A_SWAP = (
    check_bad_weights_change_nothing,
    check_swapped_weights_are_the_ones_that_draw,
    check_versions_switch_once_over_a_swap,
)
"""vLLM's CPU build cannot do it for its own models; see test_new_weights_are_refused_on_a_cpu."""


def random_llama(seed: int) -> torch.nn.Module:
    """A dense model with random weights, as transformers computes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    return random_llama(0)


@pytest.fixture(scope="module")
def weights(llama: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> PublishedWeights:
    config = llama.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    tensors = {name: tensor.contiguous().clone() for name, tensor in llama.state_dict().items()}
    return publish_tensors(tmp_path_factory.mktemp("llama"), tensors, config, 1)


@pytest.fixture(scope="module")
def llama_engine(weights: PublishedWeights) -> Iterator[VllmEngine]:
    options = VllmOptions(dtype="float32", num_sequences=4, max_tokens=200, cache_bytes=CACHE_BYTES)
    made = vllm_engine_factory(options)(weights)
    assert isinstance(made, VllmEngine)
    yield made
    made.close()


@pytest.mark.parametrize(
    "check", [each for each in CHECKS if each not in NEEDS_A_SWAP], ids=lambda check: check.__name__
)
def test_a_dense_model_keeps_the_contract(
    check: object, llama_engine: VllmEngine, weights: PublishedWeights
) -> None:
    assert callable(check)
    check(EngineCase(make=lambda: llama_engine, weights=(weights, weights)))


def test_a_dense_models_logprobs_are_those_of_transformers(
    llama_engine: VllmEngine, llama: torch.nn.Module
) -> None:
    for temperature in (1.0, 0.6):
        starts = [SequenceStart(key=0, seed=seed) for seed in (1, 2)]
        draw = DrawRules(temperature=temperature)
        for sampled in finish(llama_engine, begin(llama_engine, starts, ending(40), draw=draw)):
            ids_1T = torch.tensor([[*PROMPT, *sampled.ids]])
            logits_TV = llama(ids_1T).logits[0, -41:-1].float()
            for columns, scale in ((sampled.raw_logprobs, 1.0), (sampled.logprobs, temperature)):
                expected_TV = torch.log_softmax(logits_TV / scale, dim=-1)
                expected = expected_TV.gather(1, torch.tensor(sampled.ids)[:, None]).squeeze(1).tolist()
                assert columns == pytest.approx(expected, abs=1e-4)


def test_no_kernel_of_a_dense_model_is_called_ours(llama_engine: VllmEngine) -> None:
    assert llama_engine.traits.exact_kernels == ()
    assert "no kernel is the trainer's" in llama_engine.numeric_mode.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes them: see test_on_gpu.py")
def test_new_weights_are_refused_on_a_cpu(llama_engine: VllmEngine, weights: PublishedWeights) -> None:
    with pytest.raises(WeightsError, match="repacked copies"):
        llama_engine.stage(weights)


def test_the_death_of_vllm_is_an_error_that_says_so(llama_engine: VllmEngine) -> None:
    """The last test of this file: nothing is left of the engine."""
    sample(llama_engine, ending(4))
    begun = begin(llama_engine, [SequenceStart(key=0, seed=1)], ending(120))
    step_until(llama_engine, begun, lambda: any(each.ids for each in begun.values()))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    assert before
    for pid in engine_processes(llama_engine):
        psutil.Process(pid).kill()
    deadline = time.monotonic() + 60
    with pytest.raises(UnavailableError, match="vLLM's engine died"):
        while time.monotonic() < deadline:
            llama_engine.step()
    with pytest.raises(UnavailableError, match="vLLM's engine died"):
        llama_engine.score([1, 2, 3])


def engine_processes(engine: VllmEngine) -> list[int]:
    """The processes of this engine, not those of another in the same test run."""
    manager = engine._served._llm.engine_core.resources.engine_manager
    return [process.pid for process in manager.processes]
