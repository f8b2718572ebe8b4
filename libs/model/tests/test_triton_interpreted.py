"""The whole model over every GPU kernel, in Triton's interpreter on the CPU: small, in fp32.

Legend: T tokens.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, using_backend
from forklight_kernels.backend import has_triton
from forklight_model.config import ModelConfig
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.parity import SamplingPlan, count_unequal, sample_sequences

pytestmark = [
    pytest.mark.skipif(not has_triton(), reason="Triton is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles where there is a GPU"),
]

TINY = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    rotary_dim=8,
    num_local_experts=3,
    num_experts_per_tok=2,
    attn_type_list=(0, 1),
    max_position_embeddings=256,
    initializer_range=0.2,
)
LENGTHS = (1, 66, 5)


@pytest.fixture
def interpreted() -> Iterator[None]:
    with using_backend(Backend.TRITON):
        yield


@pytest.fixture
def model() -> HybridModel:
    return HybridModel(TINY)


def score(model: HybridModel, ids_T: Tensor) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad(set_to_none=True)
    cu_seqlens = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    stats = token_logprobs(model, ids_T, cu_seqlens, temperature=0.8)
    (stats.logprobs_T.sum() + 0.1 * stats.entropy_T.sum()).backward()
    return stats.logprobs_T.detach(), [parameter.grad for parameter in model.parameters()]


def test_log_probs_and_all_gradients_equal_torch(model: HybridModel) -> None:
    ids_T = torch.randint(TINY.vocab_size, (sum(LENGTHS),))
    truth_T, truth_gradients = score(model, ids_T)
    with using_backend(Backend.TRITON):
        logprobs_T, gradients = score(model, ids_T)
    torch.testing.assert_close(logprobs_T, truth_T, rtol=0, atol=2e-5)
    for (name, _), got, expected in zip(model.named_parameters(), gradients, truth_gradients, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        assert float((got - expected).abs().max()) < 1e-4 * scale, name


@pytest.mark.usefixtures("interpreted")
def test_what_rollout_says_is_what_the_trainer_says(model: HybridModel) -> None:
    # Pieces that end inside a chunk of 64; then one step closes the chunk and the next one reads it.
    prompts = [torch.randint(TINY.vocab_size, (length,)) for length in (63, 1)]
    sequences = sample_sequences(model, prompts, SamplingPlan(num_tokens=3, piece=40))
    agreement = count_unequal(model, sequences)
    assert agreement.num_tokens == 6 and agreement.max_difference < 1e-5
