"""The weights as rollout computes with them, block by block, from whichever process holds them.

Under ZeRO-3 a block is gathered at a time, on all processes, and one of them, in turn, has it written; of
experts that are spread each process has its own. Nothing larger is ever whole anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from forklight_model.moe import parameter_of
from forklight_trainer.adapters.deepspeed.layout import Layout
from forklight_trainer.adapters.deepspeed.scorer import LEAVES


def own_published(policy: nn.Module, layout: Layout, rank: int) -> Iterator[tuple[str, Tensor]]:
    """Each published tensor at one process. All processes go through all of it, in step."""
    for place, (prefix, unit) in enumerate(_units(policy)):
        with _gathered(unit, layout.zero_stage):
            for name, tensor in unit.state_dict(prefix=prefix).items():
                if _is_writer(name, place, layout, rank):
                    whole = tensor.contiguous()
                    # On a CPU a sink reads it later, when the block is cut up again.
                    is_lent = layout.zero_stage == 3 and not whole.is_cuda
                    yield name, whole.clone() if is_lent else whole


def _is_writer(name: str, place: int, layout: Layout, rank: int) -> bool:
    """Of what all have, processes take turns; of spread experts, the groups that hold all of them do."""
    if layout.expert_parallel > 1 and parameter_of(name) != name:
        num_groups = layout.num_ranks // layout.expert_parallel
        return rank // layout.expert_parallel == place % num_groups
    return place % layout.num_ranks == rank


def _units(policy: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Blocks, and what holds weights outside of them, with the prefix of their names."""
    inside: set[nn.Module] = set()
    for name, module in policy.named_modules():
        if module in inside:
            continue
        if isinstance(module, LEAVES):
            inside |= set(module.modules())
            yield f"{name}.", module
        elif next(module.parameters(recurse=False), None) is not None:
            yield f"{name}.", module


def _gathered(unit: nn.Module, stage: int) -> AbstractContextManager[Any]:
    if stage != 3:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(unit.parameters()))
    return context
