"""Routing replay: packs are scored with the experts that rollout chose.

Rollout feeds the model every token of a sample but the last, and records the choice for each. The trainer
feeds the last one too: what follows from it predicts a token that nobody scores, so it repeats the choice
before it.
Legend: F fed tokens of a sample, T packed tokens, L layers, K experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forklight_core.errors import ConfigError, ParityError
from forklight_core.wire import RoutingArrays
from forklight_model.config import ModelConfig
from forklight_model.policy import PolicyConfig
from forklight_model.routing import RecordedRouting
from forklight_trainer.batches.batch import TrainingSample
from forklight_trainer.batches.packing import Pack


def check_routing(sample: TrainingSample, config: ModelConfig) -> RoutingArrays:
    """The sample's recorded choices; refuse a sample without them, or with those of another model."""
    who = f"sample {sample.sample_id} of pod {sample.pod!r}"
    if sample.routing is None:
        raise ParityError(
            f"{who} has no recorded routing, which parity.routing_replay needs: restart the pod, so that it "
            "reads this run's file, or set parity.routing_replay = false"
        )
    experts, weights = sample.routing.experts, sample.routing.weights
    expected = (sample.num_tokens - 1, config.num_hidden_layers, config.num_experts_per_tok)
    if experts.shape != expected or weights.shape != expected:
        raise ParityError(
            f"{who} has routing of shape {experts.shape} for (tokens, layers, experts a token) = {expected}: "
            "its pod runs another model"
        )
    if experts.max() >= config.num_local_experts or not np.isfinite(weights).all():
        raise ParityError(
            f"{who} has routing that cannot be: expert {experts.max()} of {config.num_local_experts}, or "
            "weights that are NaN or infinite; look at the pod's log and its weights version"
        )
    return sample.routing


def replay_routing(
    packs: Sequence[Pack], samples: Sequence[TrainingSample], config: PolicyConfig
) -> list[Pack]:
    """The same packs, each with the choices of its samples; `samples` are the step's."""
    if not isinstance(config, ModelConfig):
        raise ConfigError("parity.routing_replay needs a model of ours: set it to false with model.hf")
    return [
        replace(pack, routing=_lay_out([check_routing(samples[i], config) for i in pack.sample_indices]))
        for pack in packs
    ]


def _lay_out(recorded: Sequence[RoutingArrays]) -> RecordedRouting:
    """One sample behind the other, as a pack lays their tokens."""
    return RecordedRouting(
        experts_LTK=_join([routing.experts for routing in recorded]),
        weights_LTK=_join([routing.weights for routing in recorded]),
    )


def _join(arrays_FLK: Sequence[npt.NDArray[np.generic]]) -> Tensor:
    complete = [part for array_FLK in arrays_FLK for part in (array_FLK, array_FLK[-1:])]
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(complete).transpose(1, 0, 2)))
