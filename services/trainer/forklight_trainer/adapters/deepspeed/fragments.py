"""Which elements of which weight, in fp32 and with their moments, this process keeps: ZeRO's cuts.

ZeRO-1 and -2 keep, a process, one stretch of all weights laid end to end; ZeRO-3 an equal share of each. This
is the only file that reads the insides of DeepSpeed's optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forklight_trainer.adapters.deepspeed.configuration import Config

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fragment:
    """A stretch of one weight, lying in a flat fp32 tensor that the optimizer steps."""

    name: str
    parameter: Any  # nn.Parameter, with what DeepSpeed hangs on it
    start: int
    """First element, of this process's flattened weight."""
    length: int
    flat: Tensor
    offset: int
    """Where the stretch begins in `flat`."""

    @property
    def weight(self) -> Tensor:
        return self.cut(self.flat.data)

    def cut(self, like_flat: Tensor) -> Tensor:
        """The stretch's part of a tensor that lies as `flat` does."""
        return like_flat.narrow(0, self.offset, self.length)


def own_fragments(engine: Any, stage: int) -> Iterator[Fragment]:  # noqa: ANN401  # DeepSpeed has no types
    """This process's stretches, in the order of the weights."""
    find = _cut_by_weight if stage == 3 else _cut_end_to_end
    for name, parameter in engine.module.named_parameters():
        fragment = find(engine.optimizer, name.removeprefix("policy."), parameter)
        if fragment is not None:
            yield fragment


def optimizer_state(engine: Any, flat: Tensor) -> MutableMapping[str, Tensor]:  # noqa: ANN401
    """AdamW's state of a flat tensor, made where its first step has not made it yet."""
    state: MutableMapping[str, Tensor] = engine.optimizer.optimizer.state[flat]
    for key in MOMENTS:
        if key not in state:
            state[key] = torch.zeros_like(flat.data)
    if STEP not in state:
        state[STEP] = torch.zeros((), dtype=torch.float32, device=flat.device)
    return state


def set_optimizer_step(engine: Any, stage: int, step: float) -> None:  # noqa: ANN401
    """A tensor of its own for each flat tensor: one that is shared would be counted up by all."""
    for flat in {id(each.flat): each.flat for each in own_fragments(engine, stage)}.values():
        state = optimizer_state(engine, flat)
        state[STEP] = torch.full_like(state[STEP], step)


def refresh_weights(engine: Any, stage: int) -> None:  # noqa: ANN401
    """What is computed with follows the fp32 weights again. All processes call it."""
    if stage != 3:
        engine.optimizer.update_lp_params()
        return
    whole = engine.optimizer.persistent_parameters  # small ones, which are not let go between passes
    if whole:
        whole[0].partition(whole)
    for fragment in own_fragments(engine, stage):
        fragment.parameter.ds_tensor.data.narrow(0, 0, fragment.length).copy_(fragment.weight)
    # They stay cut: a first pass that found them gathered would not note that it reads them, and a later
    # one, after a publication, would fetch what the noted order does not have.


def make_room(policy: nn.Module, dtype: torch.dtype, device: torch.device, *, is_whole: bool) -> None:
    """Zeros in place of a policy's unset weights; if not whole, a single one that shows itself everywhere."""

    def room(weight: Tensor) -> Tensor:
        zeros = torch.zeros(weight.shape if is_whole else (), dtype=dtype, device=device)
        return zeros.expand(weight.shape)

    # As torch's to_empty does it: what modules keep beside their parameters follows.
    policy._apply(room)  # type: ignore[no-untyped-call]


def cut_unset(policy: nn.Module, config: Config) -> None:
    """Give each weight under ZeRO-3 this process's share of it, zero. The whole never exists.

    DeepSpeed's own conversion wants every process to hold each weight whole, in turn, and broadcasts it.
    """
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import PartitionedParamStatus

    parameter: Any
    context = deepspeed.zero.Init(config_dict_or_path=config)
    for parameter in policy.parameters():
        context._convert_to_deepspeed_param(parameter)
        aligned = context._aligned_size(parameter)
        share = aligned // context._partition_world_size(parameter)
        parameter.ds_tensor = torch.zeros(share, dtype=parameter.dtype, device=parameter.device)
        parameter.ds_tensor.ds_numel = share
        parameter.ds_tensor.status = PartitionedParamStatus.AVAILABLE
        parameter.ds_tensor.final_location = None  # not on a disk
        parameter.ds_numel_aligned = aligned
        parameter.partition()  # lets go of the whole


def _cut_by_weight(optimizer: Any, name: str, parameter: Any) -> Fragment | None:  # noqa: ANN401
    per_rank = parameter.ds_tensor.ds_numel
    start = parameter.ds_zero_partition_rank * per_rank
    length = max(0, min(per_rank, parameter.ds_numel - start))
    if not length:
        return None
    group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
    flat = optimizer.fp32_partitioned_groups_flat[group]
    return Fragment(name=name, parameter=parameter, start=start, length=length, flat=flat, offset=offset)


def _cut_end_to_end(optimizer: Any, name: str, parameter: Any) -> Fragment | None:  # noqa: ANN401
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    flats = getattr(optimizer, "fp32_groups_flat_partition", None)  # of the stage 1 that adds up in fp32
    if flats is None:
        flats = optimizer.single_partition_of_fp32_groups
    return Fragment(
        name=name,
        parameter=parameter,
        start=mapping.lp_fragment_address.start,
        length=mapping.hp_fragment_address.numel,
        flat=flats[mapping.param_group_index],
        offset=mapping.hp_fragment_address.start,
    )
