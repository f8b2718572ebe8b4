"""What a rollout pod holds and how long a decode step takes.

time = bytes / copy rate + products / matmul rate + launches a layer + messages between the pod's GPUs
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from forklight_model.config import ModelConfig
from forklight_model.planning.assumptions import Rates
from forklight_model.planning.counts import (
    BF16_BYTES,
    attention_flops,
    count_parameters,
    key_bytes_per_token,
)
from forklight_model.planning.hardware import GPUS_A_NODE, Gpu

FLOAT32_BYTES = 4
CHUNK = 64
MESSAGES_A_LAYER = 4
POD_SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMemory:
    """Bytes of one GPU of a pod."""

    weights: float
    staged: float
    caches: float
    buffers: float
    num_sequences: int
    """Decoded together, at the workload's average lengths."""
    num_longest: int
    """The same when all are as long as the window."""

    @property
    def total(self) -> float:
        return self.weights + self.staged + self.caches + self.buffers

    def parts(self) -> dict[str, float]:
        """For tables."""
        return {
            "rollout weights": self.weights,
            "next weights, staged": self.staged,
            f"caches of {self.num_sequences} sequences a pod": self.caches,
            "rollout's buffers, context": self.buffers,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """What a pod decodes: tokens cached for a sequence on average and at most, and how many may run."""

    average: float
    longest: float
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """Seconds of one token for every running sequence."""

    memory_s: float
    products_s: float
    launch_s: float
    messages_s: float

    @property
    def total_s(self) -> float:
        return self.memory_s + self.products_s + self.launch_s + self.messages_s


def plan_decode_step(
    config: ModelConfig, gpu: Gpu, *, batch: int, context: float, gpus: int = 1, rates: Rates
) -> DecodeStep:
    """`batch` sequences with `context` tokens cached each, on a pod of `gpus`."""
    counts = count_parameters(config)
    read = decode_bytes(config, batch, context, gpus)
    active = counts.active_dense + counts.active_experts + counts.head
    flops = batch * (2.0 * active + attention_flops(config, context)) / gpus
    return DecodeStep(
        memory_s=read / (gpu.memory_bandwidth * rates.copy_share),
        products_s=flops / (gpu.matmul_flops * rates.matmul_share),
        launch_s=config.num_hidden_layers * rates.layer_overhead_us * 1e-6,
        messages_s=_messages_s(config, gpu, batch, gpus, rates),
    )


def decode_bytes(config: ModelConfig, batch: int, context: float, gpus: int) -> float:
    """What one GPU moves: the weights that some token needs, states, keys, logits."""
    counts = count_parameters(config)
    idle_share = (1 - config.num_experts_per_tok / config.num_local_experts) ** batch
    weights = counts.active_dense + counts.head + counts.experts * (1 - idle_share)
    size = float(config.head_dim**2)
    chunk = (CHUNK / 2 + 1) * 2 * config.head_dim * BF16_BYTES
    # Once in a chunk the state is read and written, and written rounded.
    closing = size * (2 * FLOAT32_BYTES + BF16_BYTES) / CHUNK
    heads = len(config.lightning_layers) * config.num_attention_heads
    states = heads * (size * BF16_BYTES + chunk + closing)
    keys = context * key_bytes_per_token(config) / _key_parts(config, gpus)
    logits = 2.0 * config.vocab_size * FLOAT32_BYTES
    return (BF16_BYTES * weights + batch * (states + logits)) / gpus + batch * keys


def _messages_s(config: ModelConfig, gpu: Gpu, batch: int, gpus: int, rates: Rates) -> float:
    """Outputs of every product are gathered by all GPUs of a pod."""
    if gpus == 1:
        return 0.0
    width, hidden = config.num_attention_heads * config.head_dim, config.hidden_size
    slots = config.num_experts_per_tok * config.intermediate_size
    widths = config.num_hidden_layers * (2.0 * hidden + slots)
    widths += 2.0 * width * len(config.lightning_layers) + width * len(config.softmax_layers)
    received = batch * (BF16_BYTES * widths + FLOAT32_BYTES * config.vocab_size) * (gpus - 1) / gpus
    latency = rates.message_us if gpus <= GPUS_A_NODE else rates.network_message_us
    sent_s = received / (gpu.nvlink_bandwidth * rates.nvlink_share)
    return MESSAGES_A_LAYER * config.num_hidden_layers * latency * 1e-6 + sent_s


def _key_parts(config: ModelConfig, gpus: int) -> int:
    """Key heads are cut over GPUs while there are enough, then replicated."""
    return min(gpus, config.num_key_value_heads)


def plan_pod_memory(
    config: ModelConfig, *, gpus: int, budget: float, sequences: Sequences, rates: Rates
) -> PodMemory:
    """A pod whose GPUs have `budget` bytes for rollout."""
    weights = BF16_BYTES * count_parameters(config).total / gpus
    staged, buffers = weights * rates.staged_copies, rates.lone_buffers_gb * 1e9
    free = budget - weights - staged - buffers
    average, longest = (
        sequence_bytes(config, length, gpus) for length in (sequences.average, sequences.longest)
    )
    num_sequences = max(0, min(sequences.most, int(free / average)))
    return PodMemory(
        weights=weights,
        staged=staged,
        caches=num_sequences * average if num_sequences else longest,
        buffers=buffers,
        num_sequences=num_sequences if free >= longest else 0,
        num_longest=max(0, min(sequences.most, int(free / longest))),
    )


def sequence_bytes(config: ModelConfig, num_tokens: float, gpus: int) -> float:
    """Caches of one sequence on one GPU of a pod, as GPU engines keep them."""
    slot, page, page_tokens = _cache_sizes(config, gpus)
    # Half a page of each sequence is empty on average.
    return slot / gpus + page * (num_tokens / page_tokens + 0.5)


@cache
def _cache_sizes(config: ModelConfig, gpus: int) -> tuple[float, float, int]:
    """Bytes of a slot on one GPU, of a page on a pod's GPU, and a page's tokens."""
    import torch

    from forklight_kernels import Backend, using_backend
    from forklight_model.cache_size import PAGE_TOKENS, page_bytes, slot_bytes
    from forklight_model.shard import Shard

    with using_backend(Backend.TRITON):
        slot = slot_bytes(config, torch.bfloat16, "cuda")
    page = page_bytes(config, torch.bfloat16, Shard(size=_key_parts(config, gpus)))
    return float(slot), float(page), PAGE_TOKENS
