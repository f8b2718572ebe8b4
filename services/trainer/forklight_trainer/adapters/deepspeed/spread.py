"""Which processes share a pack's tokens and a layer's experts, and what DeepSpeed must know of it.

For DeepSpeed every process has data of its own: sharing tokens is the model's affair, and the library's own
sequence parallelism stays off. Experts that only some processes hold are known by marks on their weights:
those that the library's expert layer puts on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from forklight_core.errors import ConfigError
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.moe import StackedExperts
from forklight_model.spread.experts import LOCAL_EXPERTS, DistributedExperts, ExpertPlaces
from forklight_model.spread.peers import Peers
from forklight_model.spread.sequence import LightningSpread, check_sequence_spread
from forklight_trainer.adapters.deepspeed.configuration import Config
from forklight_trainer.adapters.deepspeed.fragments import cut_unset, make_room
from forklight_trainer.adapters.deepspeed.gang import Gang
from forklight_trainer.adapters.deepspeed.layout import Layout

FAMILY = "autoep_expert"
"""DeepSpeed's word for weights that are cut over the processes with the same experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """With whom this process works."""

    layout: Layout
    gang: Gang
    sequence: Peers | None
    """Those with other tokens of the same pack."""
    lightning: LightningSpread
    experts: ExpertPlaces
    """Those with other experts of the same layers."""
    expert_group: str
    """DeepSpeed's name of it; empty where every process has all experts."""


def make_spread(
    layout: Layout, gang: Gang, config: ModelConfig, lightning: LightningSpread = LightningSpread.HEADS
) -> Spread:
    """Make the groups. All processes call it, before the model is built."""
    if layout.sequence_parallel > 1:
        check_sequence_spread(config, layout.sequence_parallel, lightning)
    if config.num_local_experts % layout.expert_parallel:
        raise ConfigError(
            f"trainer.expert_parallel = {layout.expert_parallel} does not divide the model's "
            f"{config.num_local_experts} experts"
        )
    experts, name = _expert_places(layout)
    return Spread(
        layout=layout,
        gang=gang,
        sequence=_sequence_peers(layout, gang),
        lightning=lightning,
        experts=experts,
        expert_group=name,
    )


def prepare(policy: HybridModel, spread: Spread, config: Config, dtype: torch.dtype) -> None:
    """Get a policy ready for DeepSpeed. One without weights gets zeros: of ZeRO-3 no more than its share."""
    is_cut, is_unset = spread.layout.zero_stage == 3, policy.lm_head.weight.is_meta
    if is_unset:
        make_room(policy, dtype, spread.gang.device, is_whole=not is_cut)
    mark_experts(policy, spread)
    if is_unset and is_cut:
        cut_unset(policy, config)


def mark_experts(policy: nn.Module, spread: Spread) -> None:
    """Tell DeepSpeed which weights are not the same everywhere, before it takes the model."""
    if not spread.expert_group:
        return
    from deepspeed.utils import groups

    for parameter in _own_experts(policy):
        parameter.allreduce = False
        parameter.group_name = spread.expert_group
        parameter.ds_zero_placement_family = FAMILY
        parameter.ds_zero_partition_group_name = spread.expert_group
        parameter.ds_zero_partition_process_group = groups._get_expert_data_parallel_group(
            spread.expert_group
        )


def parameter_groups(policy: nn.Module, spread: Spread) -> list[dict[str, Any]]:
    """What the optimizer is given: spread experts apart from all else."""
    experts = list(_own_experts(policy)) if spread.expert_group else []
    known = {id(parameter) for parameter in experts}
    groups: list[dict[str, Any]] = [
        {"params": [each for each in policy.parameters() if id(each) not in known], "name": "dense"}
    ]
    if experts:
        groups.append({"params": experts, "name": spread.expert_group, "moe": True})
    return groups


def _own_experts(policy: nn.Module) -> Iterator[Any]:
    for module in policy.modules():
        if isinstance(module, StackedExperts):
            yield from module.parameters()


def _expert_places(layout: Layout) -> tuple[ExpertPlaces, str]:
    if layout.expert_parallel == 1:
        return LOCAL_EXPERTS, ""
    from deepspeed.utils import groups

    name = f"ep_size_{layout.expert_parallel}"
    if name not in groups._get_expert_parallel_group_dict():
        groups._create_expert_and_data_parallel(layout.expert_parallel)
    return DistributedExperts(Peers(groups._get_expert_parallel_group(name))), name


def _sequence_peers(layout: Layout, gang: Gang) -> Peers | None:
    size = layout.sequence_parallel
    if size == 1:
        return None
    own: Peers | None = None
    for first in range(0, gang.size, size):
        ranks = list(range(first, first + size))
        group = dist.new_group(ranks)  # every process takes part in making every group
        if gang.rank in ranks:
            own = Peers(group)
    return own
