"""The model on a GPU: the published code's numbers in fp32, float64's gradients, and rollout's bits in bf16.

Legend: B sequences, T tokens, V vocabulary.
"""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from forklight_kernels import Backend, using_backend
from forklight_model.cache import HybridCache
from forklight_model.checkpoint import load_model
from forklight_model.inference import PromptPieces, decode, prefill
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel, Recomputation
from forklight_model.parity import (
    SELF_TEST,
    SamplingPlan,
    check_numeric_mode,
    count_unequal,
    sample_sequences,
)
from forklight_model.routing import Routing
from forklight_model.sizes import SIZES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

DEVICE = "cuda"
LENGTHS = (1, 63, 64, 65, 200)


@pytest.fixture(scope="module")
def small_bf16() -> HybridModel:
    torch.manual_seed(0)
    return HybridModel(SELF_TEST).to(device=DEVICE, dtype=torch.bfloat16)


def offsets(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(device=DEVICE, dtype=torch.int32)


@torch.no_grad()
def test_triton_in_fp32_matches_the_published_code(golden_dir: Path) -> None:
    golden = {
        name: tensor.to(DEVICE) for name, tensor in load_file(golden_dir / "golden.safetensors").items()
    }
    model, routing = load_model(golden_dir).to(DEVICE), Routing()
    ids_BT = golden["input_ids"]
    stats = token_logprobs(model, ids_BT.view(-1), offsets(600, 600), routing=routing)
    error = (stats.logprobs_T.view(2, 600)[:, 1:] - golden["next_token_logprobs"]).abs().max()
    assert error < 2e-5
    assert torch.equal(routing.experts_LTK.sort(dim=-1).values, golden["routed_experts"].sort(dim=-1).values)
    cache = HybridCache(model.config, 2, 600, torch.float32, DEVICE)
    pieces, last = PromptPieces(slots=[1, 0], lengths=[100, 100]), int(golden["logits_positions"][-1])
    prefill(model, cache, pieces, ids_BT[:, :100].reshape(-1))
    for token in range(100, last + 1):
        logits_BV = decode(model, cache, 2, ids_BT[:, token].flip(0))
    assert (logits_BV.flip(0) - golden["logits"][:, -1]).abs().max() < 1.5e-4


def test_gradients_in_fp32_match_float64_torch() -> None:
    torch.manual_seed(1)
    model = HybridModel(SELF_TEST)
    ids_T = torch.randint(SELF_TEST.vocab_size, (sum(LENGTHS),))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        copy = HybridModel(SELF_TEST).to(device=DEVICE, dtype=dtype)
        copy.load_state_dict(model.state_dict())
        stats = token_logprobs(copy, ids_T.to(DEVICE), offsets(*LENGTHS))
        (stats.logprobs_T.sum() + 0.1 * stats.entropy_T.sum()).backward()
        gradients.append({name: parameter.grad for name, parameter in copy.named_parameters()})
    for name, truth in gradients[1].items():
        error = (gradients[0][name].double() - truth).norm() / truth.norm()
        assert error < 1e-4, f"{name}: {error:.2e}"


def test_bf16_is_near_float64(small_bf16: HybridModel) -> None:
    ids_T = torch.randint(SELF_TEST.vocab_size, (sum(LENGTHS),), device=DEVICE)
    wide = HybridModel(SELF_TEST).to(device=DEVICE, dtype=torch.float64)
    wide.load_state_dict(small_bf16.state_dict())
    with torch.no_grad():
        ours = token_logprobs(small_bf16, ids_T, offsets(*LENGTHS)).logprobs_T
        truth = token_logprobs(wide, ids_T, offsets(*LENGTHS)).logprobs_T
    assert (ours - truth).abs().mean() < 0.05


def test_recomputed_blocks_give_the_same_gradients(small_bf16: HybridModel) -> None:
    ids_T = torch.randint(SELF_TEST.vocab_size, (sum(LENGTHS),), device=DEVICE)
    gradients = []
    wholes = Recomputation(keeps_experts=True, num_whole_layers=1)
    for recomputation in (None, Recomputation(), Recomputation(keeps_experts=True), wholes):
        small_bf16.recomputation = recomputation
        small_bf16.zero_grad(set_to_none=True)
        token_logprobs(small_bf16, ids_T, offsets(*LENGTHS)).logprobs_T.sum().backward()
        gradients.append([parameter.grad.clone() for parameter in small_bf16.parameters()])
    small_bf16.recomputation = None
    small_bf16.zero_grad(set_to_none=True)
    for first, *others in zip(*gradients, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_this_gpu_is_in_parity_mode() -> None:
    mode = check_numeric_mode(DEVICE, torch.bfloat16)
    assert mode.is_parity, mode.reason


@pytest.mark.parametrize("piece", [64, 100, 1024])
@pytest.mark.parametrize("batch", [1, 5, 33])
def test_rollout_bits_equal_trainer_bits(small_bf16: HybridModel, batch: int, piece: int) -> None:
    generator = torch.Generator().manual_seed(batch + piece)
    lengths = [int(n) for n in torch.randint(1, 400, (batch,), generator=generator)]
    prompts = [torch.randint(SELF_TEST.vocab_size, (n,), generator=generator).to(DEVICE) for n in lengths]
    plan = SamplingPlan(num_tokens=130, piece=piece, temperature=0.9, uses_graph=True, num_idle=batch % 4)
    sequences = sample_sequences(small_bf16, prompts, plan)
    agreement = count_unequal(small_bf16, sequences, temperature=0.9)
    assert agreement.num_tokens == 130 * batch
    assert agreement.num_unequal == 0, agreement


def test_mini_rollout_bits_equal_trainer_bits() -> None:
    torch.manual_seed(0)
    model = HybridModel(SIZES["mini"]).to(device=DEVICE, dtype=torch.bfloat16)
    prompts = [torch.randint(1000, (length,), device=DEVICE) for length in (1, 64, 333, 4090)]
    sequences = sample_sequences(model, prompts, SamplingPlan(num_tokens=150, piece=500, uses_graph=True))
    assert count_unequal(model, sequences).num_unequal == 0


def test_a_broken_contract_is_told(small_bf16: HybridModel) -> None:
    prompts = [torch.randint(SELF_TEST.vocab_size, (70,), device=DEVICE)]
    sequences = sample_sequences(small_bf16, prompts, SamplingPlan(num_tokens=64, piece=64))
    with using_backend(Backend.TORCH):
        assert count_unequal(small_bf16, sequences).num_unequal > 0


@torch.no_grad()
def test_weights_side_by_side_change_no_bit(small_bf16: HybridModel) -> None:
    joined = copy.deepcopy(small_bf16).requires_grad_(False)
    joined.join_weights()
    ids_T = torch.randint(SELF_TEST.vocab_size, (sum(LENGTHS),), device=DEVICE)
    stats = [token_logprobs(model, ids_T, offsets(*LENGTHS)).logprobs_T for model in (small_bf16, joined)]
    assert torch.equal(*stats)
    logits = []
    for model in (small_bf16, joined):
        cache = HybridCache(model.config, len(LENGTHS), 300, torch.bfloat16, DEVICE)
        prefill(model, cache, PromptPieces(slots=range(len(LENGTHS)), lengths=LENGTHS), ids_T)
        steps = [decode(model, cache, len(LENGTHS), ids_T[at : at + len(LENGTHS)]) for at in range(4)]
        logits.append(torch.stack(steps))
    assert torch.equal(*logits)
