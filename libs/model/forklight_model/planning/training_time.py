"""How long a trainer takes for a pack: products, bytes and messages, each at its rate.

time = products / matmul rate + attention / its rate + (passes over memory) / bandwidth + exposed traffic
"""

from __future__ import annotations

from dataclasses import dataclass

from forklight_model.config import ModelConfig
from forklight_model.planning.assumptions import Rates
from forklight_model.planning.counts import (
    BF16_BYTES,
    attention_flops,
    count_parameters,
    forward_flops,
    head_width,
)
from forklight_model.planning.hardware import GPUS_A_NODE, Gpu
from forklight_model.planning.layout import TrainLayout

ATTENTION_PRODUCTS = 4.5
"""Softmax attention's kernels compute two products forward and seven backward."""
HEAD_PRODUCTS = 4
"""The head's logits are computed twice, then two gradients."""
LIGHTNING_WALKS = (4, 12)
"""Tensors of W a token that the lightning kernels move: forward; backward (three walks)."""
WIDTHS_A_BLOCK = 15
"""Hidden widths a token that norms, gate, router, sums and residuals of a block read and write forward."""
GATHERS = 3
"""Weights are gathered twice and gradients scattered; tokens are exchanged forward, again, backward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that one GPU receives for one pack, and the seconds that they take alone."""

    dense_bytes: float
    dense_s: float
    expert_bytes: float
    expert_s: float
    tokens_bytes: float
    """All-to-all of the experts."""
    tokens_s: float
    heads_bytes: float
    """All-to-all of sequence parallelism."""
    heads_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTime:
    """Seconds of one pack on one group of sequence-parallel GPUs."""

    products_s: float
    attention_s: float
    memory_s: float
    exposed_s: float
    traffic: Traffic
    tokens_per_s: float
    """All trainer GPUs together."""
    utilisation: float
    """Useful arithmetic (three forward passes) over the peak."""

    @property
    def total_s(self) -> float:
        return self.products_s + self.attention_s + self.memory_s + self.exposed_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """What is trained at once: tokens, and the keys that one attends to on average."""

    tokens: float
    context: float


def plan_train_time(
    config: ModelConfig, gpu: Gpu, layout: TrainLayout, pack: Pack, rates: Rates
) -> TrainTime:
    """One pack, forward and backward. The optimizer's own step is a few passes over its part: left out."""
    tokens = pack.tokens / layout.sequence_parallel
    peak = gpu.matmul_flops
    products = tokens * product_flops(config, layout, rates) / (peak * rates.matmul_share)
    attended = ATTENTION_PRODUCTS * attention_flops(config, pack.context)
    attention = tokens * attended / (peak * rates.attention_share)
    memory = tokens * _memory_s(config, gpu, layout, rates)
    traffic = plan_traffic(config, gpu, layout, tokens, rates)
    computed = products + attention + memory
    gathered = traffic.dense_s + traffic.expert_s
    hidden = min(rates.hidden_share * gathered, computed)
    exposed = gathered - hidden + traffic.tokens_s + traffic.heads_s
    seconds = computed + exposed
    useful = 3 * tokens * forward_flops(config, pack.context)
    return TrainTime(
        products_s=products,
        attention_s=attention,
        memory_s=memory,
        exposed_s=exposed,
        traffic=traffic,
        tokens_per_s=tokens * layout.gpus / seconds,
        utilisation=useful / seconds / peak,
    )


def product_flops(config: ModelConfig, layout: TrainLayout, rates: Rates) -> float:
    """Of one token with weights, everything computed again included, on the GPU with the hottest experts."""
    counts, how = count_parameters(config), layout.recompute
    again = 1 - how.num_whole_layers / config.num_hidden_layers
    # Kept gate and up are two of an expert's three products.
    experts_again = again / 3 if how.keeps_experts else again
    hot = rates.hot_expert_time if layout.expert_parallel > 1 else 1.0
    dense = 2.0 * counts.active_dense * (3 + again)
    experts = 2.0 * counts.active_experts * (3 + experts_again) * hot
    return dense + experts + 2.0 * counts.head * HEAD_PRODUCTS


def _memory_s(config: ModelConfig, gpu: Gpu, layout: TrainLayout, rates: Rates) -> float:
    """Of one token: what is bound by bytes."""
    again = 1 - layout.recompute.num_whole_layers / config.num_hidden_layers
    copy = gpu.memory_bandwidth * rates.copy_share
    forward, backward = LIGHTNING_WALKS
    walked = len(config.lightning_layers) * head_width(config) * (forward * (1 + again) + backward)
    widths = config.num_hidden_layers * config.hidden_size * WIDTHS_A_BLOCK * (3 + again)
    lightning = walked * BF16_BYTES / (copy * rates.lightning_share)
    return lightning + widths * BF16_BYTES / (copy * rates.elementwise_share)


def plan_traffic(config: ModelConfig, gpu: Gpu, layout: TrainLayout, tokens: float, rates: Rates) -> Traffic:
    """What a GPU receives for its `tokens` of a pack. A message to all GPUs enters a node once."""
    nvlink, network = gpu.nvlink_bandwidth * rates.nvlink_share, gpu.network_bandwidth * rates.network_share
    counts, gpus, expert = count_parameters(config), layout.gpus, layout.expert_parallel
    gathers = {1: 0, 2: 1, 3: GATHERS}[layout.zero] if gpus > 1 else 0
    copies = gpus // expert
    dense = BF16_BYTES * gathers * counts.dense * _others(gpus)
    experts = BF16_BYTES * gathers * counts.experts / expert * _others(copies)
    slots = config.num_experts_per_tok * config.hidden_size * config.num_hidden_layers
    exchanged = BF16_BYTES * 2 * GATHERS * tokens * slots * _others(expert)
    heads = BF16_BYTES * GATHERS * tokens * _mixed_width(config) * _others(layout.sequence_parallel)
    leaving = _share_leaving(expert)
    return Traffic(
        dense_bytes=dense,
        dense_s=_gather_s(dense, gpus, 1, nvlink, network),
        expert_bytes=experts,
        expert_s=_gather_s(experts, gpus, expert, nvlink, network),
        tokens_bytes=exchanged,
        tokens_s=exchanged * (leaving / network + (1 - leaving) / nvlink),
        heads_bytes=heads,
        heads_s=heads / nvlink,
    )


def _gather_s(num_bytes: float, gpus: int, distinct: int, nvlink: float, network: float) -> float:
    """What a node's GPUs have in common enters it once, through all ports, and is passed on by NVLink."""
    if gpus <= GPUS_A_NODE:
        return num_bytes / nvlink
    return max(num_bytes / nvlink, num_bytes * min(distinct, GPUS_A_NODE) / GPUS_A_NODE / network)


def _others(size: int) -> float:
    return (size - 1) / size


def _share_leaving(group: int) -> float:
    """The share of an all-to-all's messages that go to other nodes."""
    return (group - GPUS_A_NODE) / (group - 1) if group > GPUS_A_NODE else 0.0


def _mixed_width(config: ModelConfig) -> float:
    """Widths that change between sequence- and head-parallel in all layers: q, k, v, output."""
    width, key_width = head_width(config), config.num_key_value_heads * config.head_dim
    return 4.0 * width * len(config.lightning_layers) + 2.0 * (width + key_width) * len(config.softmax_layers)
