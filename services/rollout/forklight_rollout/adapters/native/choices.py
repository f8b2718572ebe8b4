"""From the model's record of a pass to the arrays that travel.

Legend: T tokens of a pass, L layers, K experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from forklight_core.errors import ConfigError
from forklight_core.wire import RoutingArrays
from forklight_model.config import ModelConfig
from forklight_model.routing import Routing

MOST_EXPERTS = 256  # an expert is one byte
CHOICE_BYTES = 5  # one byte for the expert, four for its weight


def check_recordable(config: ModelConfig) -> None:
    """Refuse a model whose experts have no byte each."""
    if config.num_local_experts > MOST_EXPERTS:
        raise ConfigError(
            f"parity.routing_replay records an expert in one byte, this model has {config.num_local_experts} "
            f"experts and {MOST_EXPERTS} fit: set parity.routing_replay = false"
        )


def routing_bytes(config: ModelConfig, num_tokens: int) -> int:
    """Memory that the choices for so many tokens take."""
    return num_tokens * config.num_hidden_layers * config.num_experts_per_tok * CHOICE_BYTES


def read_choices(routing: Routing) -> RoutingArrays:
    """What the routers chose in a pass, token by token: [T, L, K]."""
    recorded = routing.recorded
    experts_TLK = recorded.experts_LTK.to(torch.uint8).transpose(0, 1).contiguous()
    weights_TLK = recorded.weights_LTK.to(torch.float32).transpose(0, 1).contiguous()
    return RoutingArrays(experts=experts_TLK.cpu().numpy(), weights=weights_TLK.cpu().numpy())


def cut_choices(choices: RoutingArrays, lengths: Sequence[int]) -> list[RoutingArrays]:
    """The choices of each sequence of a pass; views."""
    ends = np.cumsum(lengths)[:-1]
    parts = zip(np.split(choices.experts, ends), np.split(choices.weights, ends), strict=True)
    return [RoutingArrays(experts=experts, weights=weights) for experts, weights in parts]


def join_choices(parts: Sequence[RoutingArrays]) -> RoutingArrays:
    """Pieces of one sequence as arrays of their own."""
    return RoutingArrays(
        experts=np.concatenate([part.experts for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
    )
