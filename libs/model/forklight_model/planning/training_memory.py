"""What a trainer GPU holds, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_model.config import ModelConfig
from forklight_model.planning.assumptions import Rates
from forklight_model.planning.counts import BF16_BYTES, count_parameters, head_width
from forklight_model.planning.layout import TrainLayout

WEIGHT_BYTES, GRADIENT_BYTES, OPTIMIZER_BYTES = 2, 4, 12
"""A parameter: bf16 to compute with, fp32 gradient summed over packs, fp32 master and two moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainMemory:
    """Bytes of one GPU."""

    state: float
    checkpoints: float
    """Inputs of all blocks, and what is kept beside them."""
    block: float
    """The block that is computed again, with its gradients, on the GPU with the hottest experts."""
    gathered: float
    """ZeRO-3: two layers whole and the gradient of one."""
    head: float
    buffers: float

    @property
    def total(self) -> float:
        return self.state + self.checkpoints + self.block + self.gathered + self.head + self.buffers

    def parts(self) -> dict[str, float]:
        """For tables, in the order of life."""
        return {
            "weights, gradients, optimizer": self.state,
            "kept activations": self.checkpoints,
            "one block again, hot experts": self.block,
            "gathered layers": self.gathered,
            "head, gathered": self.head,
            "buffers, NCCL, context": self.buffers,
        }


def state_bytes(config: ModelConfig, layout: TrainLayout) -> float:
    """Weights, gradients and optimizer. Each ZeRO stage cuts one more of them over all GPUs."""
    counts = count_parameters(config)
    held = counts.dense + counts.experts / layout.expert_parallel
    cut = counts.total / layout.gpus
    weights = cut if layout.zero == 3 else held
    gradients = cut if layout.zero >= 2 else held
    return WEIGHT_BYTES * weights + GRADIENT_BYTES * gradients + OPTIMIZER_BYTES * cut


def plan_train_memory(
    config: ModelConfig, layout: TrainLayout, pack_tokens: float, rates: Rates
) -> TrainMemory:
    """For packs of so many tokens, one a group of sequence-parallel GPUs."""
    tokens = pack_tokens / layout.sequence_parallel
    hot = rates.hot_expert_memory if layout.expert_parallel > 1 else 1.0
    counts = count_parameters(config)
    layer = counts.largest_layer_dense + counts.layer_experts / layout.expert_parallel
    is_gathered = layout.zero == 3 and not layout.is_one_gpu
    return TrainMemory(
        state=state_bytes(config, layout),
        checkpoints=tokens * kept_bytes(config, layout),
        block=tokens * (mixer_bytes(config) + hot * expert_bytes(config)),
        gathered=3 * BF16_BYTES * layer if is_gathered else 0.0,
        head=2 * BF16_BYTES * counts.head if is_gathered else 0.0,
        buffers=1e9 * (rates.lone_buffers_gb if layout.is_one_gpu else rates.buffers_gb),
    )


def kept_bytes(config: ModelConfig, layout: TrainLayout) -> float:
    """Of one token between the forward and the backward pass."""
    how = layout.recompute
    recomputed = config.num_hidden_layers - how.num_whole_layers
    gate_and_up = 2 * config.num_experts_per_tok * config.intermediate_size if how.keeps_experts else 0
    whole = mixer_bytes(config) + slot_bytes(config)
    # Softmax attention's output is never computed again.
    softmax = BF16_BYTES * len(config.softmax_layers) * head_width(config)
    inputs = BF16_BYTES * recomputed * (config.hidden_size + gate_and_up)
    return inputs + softmax + how.num_whole_layers * whole


def mixer_bytes(config: ModelConfig) -> float:
    """Attention of one block and one token: q, k, v, output, gate, and two normed inputs."""
    return BF16_BYTES * (5.0 * head_width(config) + 2 * config.hidden_size)


def slot_bytes(config: ModelConfig) -> float:
    """Experts of one block and one token: input, gate, up, hidden and output of each slot."""
    width = 2 * config.hidden_size + 3 * config.intermediate_size
    return BF16_BYTES * config.num_experts_per_tok * float(width)


def expert_bytes(config: ModelConfig) -> float:
    """The same with the gradients of gate, up and hidden."""
    return slot_bytes(config) + BF16_BYTES * config.num_experts_per_tok * 3.0 * config.intermediate_size
