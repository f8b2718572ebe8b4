"""Weights that are there only while their block runs, as an engine that shards them gathers and lets them go.

Between a block's forward pass and its gradient its weights are elsewhere, and the memory they lay in holds
something else. So no op may keep a view or a transpose of a weight: only the parameter itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from forklight_kernels import Backend, using_backend
from forklight_kernels.backend import has_triton
from forklight_model.config import ModelConfig
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel, Recomputation
from forklight_model.routing import Routing
from forklight_model.spread.experts import LOCAL_EXPERTS, DistributedExperts, ExpertPlaces
from forklight_model.spread.peers import Peers

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


class Elsewhere:
    """Where a block's weights are while it does not run."""

    def __init__(self, block: nn.Module) -> None:
        self._weights = {weight: weight.data.clone() for weight in block.parameters()}
        self.num_gathered = 0
        block.register_forward_pre_hook(self._gather)
        block.register_forward_hook(self._release)
        block.register_full_backward_pre_hook(self._gather)
        block.register_full_backward_hook(self._release)
        self._release()

    def _gather(self, *_: object) -> None:
        self.num_gathered += 1
        for weight, data in self._weights.items():
            weight.data = data.clone()

    def _release(self, *_: object) -> None:
        for weight in self._weights:
            held = weight.data
            weight.data = torch.empty(0, dtype=held.dtype)
            held.fill_(torch.nan)


@pytest.fixture
def distributed_experts(tmp_path: Path) -> Iterator[ExpertPlaces]:
    """Of one process: rows stay, but the spread op computes."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield DistributedExperts(Peers())
    dist.destroy_process_group()


def learn(model: HybridModel, lengths: Sequence[int]) -> dict[str, Tensor]:
    """Gradients, the routers' balance among what is learned."""
    ids_T = torch.randint(TINY.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(3))
    cu_seqlens, routing = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32), Routing()
    stats = token_logprobs(model, ids_T, cu_seqlens, 0.8, routing)
    (stats.logprobs_T.sum() + 0.1 * stats.entropy_T.sum() + routing.load_balancing_loss()).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def check(model: HybridModel, lengths: Sequence[int], recomputation: Recomputation | None) -> None:
    model.recomputation = recomputation
    truth = {name: gradient.clone() for name, gradient in learn(model, lengths).items()}
    model.zero_grad()
    blocks = [Elsewhere(block) for block in model.model.layers]
    assert all(weight.numel() == 0 for block in model.model.layers for weight in block.parameters())
    for name, gradient in learn(model, lengths).items():
        assert torch.equal(gradient, truth[name]), name
    assert all(block.num_gathered == (2 if recomputation is None else 3) for block in blocks)


@pytest.mark.parametrize("recomputation", [None, Recomputation(), Recomputation(keeps_experts=True)])
def test_gradients_are_right_when_weights_come_and_go(recomputation: Recomputation | None) -> None:
    check(HybridModel(TINY), (40, 1, 25), recomputation)


@pytest.mark.parametrize("recomputation", [None, Recomputation()])
def test_gradients_of_spread_experts_are_right_when_weights_come_and_go(
    recomputation: Recomputation | None, distributed_experts: ExpertPlaces
) -> None:
    check(HybridModel(TINY, experts=distributed_experts), (40, 1, 25), recomputation)


@pytest.mark.skipif(not has_triton() or torch.cuda.is_available(), reason="needs Triton's interpreter")
@pytest.mark.parametrize(("attention", "is_spread"), [(0, False), (1, True)])
def test_gradients_are_right_when_weights_come_and_go_with_a_gpus_kernels(
    attention: int, is_spread: bool, distributed_experts: ExpertPlaces
) -> None:
    # The interpreter's time is the rows, those that fill an expert's tile among them.
    few = {"num_hidden_layers": 1, "num_local_experts": 1, "num_experts_per_tok": 1}
    config = replace(TINY, attn_type_list=(attention,), **few)
    model = HybridModel(config, experts=distributed_experts if is_spread else LOCAL_EXPERTS)
    with using_backend(Backend.TRITON):
        check(model, (2, 1), Recomputation(keeps_experts=True) if is_spread else None)
