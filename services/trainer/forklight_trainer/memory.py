"""What of a step is kept and what is computed again: planned at the start, never found by running out.

The plan is `forklight plan`'s. On a CPU nothing is computed again unless the run file says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from forklight_core.errors import ConfigError
from forklight_core.runfile.schema import TrainerSection
from forklight_model.config import ModelConfig
from forklight_model.model import Recomputation
from forklight_model.planning.assumptions import Rates
from forklight_model.planning.layout import Recompute, TrainLayout
from forklight_model.planning.training_memory import TrainMemory, plan_train_memory
from forklight_model.policy import PolicyConfig

log = logging.getLogger(__name__)

GB = 1e9


def plan_recomputation(trainer: TrainerSection, config: PolicyConfig, device: str) -> Recomputation | None:
    """As the run file says; with `auto` the quickest that fits this GPU. ConfigError where none does.

    What another model than ours needs is not known: `auto` recomputes all of it on a GPU.
    """
    if trainer.recompute != "auto":
        return _chosen(trainer)
    if device != "cuda":
        return None
    if not isinstance(config, ModelConfig):
        return Recomputation()
    return choose_recomputation(trainer, config, torch.cuda.get_device_properties(0).total_memory)


def choose_recomputation(
    trainer: TrainerSection, config: ModelConfig, gpu_bytes: float
) -> Recomputation | None:
    """The first of the quickest that `gpu_bytes` can hold with the run's packs."""
    rates = Rates()
    room = gpu_bytes * rates.memory_share
    for how in _quickest_first(config.num_hidden_layers):
        memory = plan_memory(trainer, config, how, rates)
        if memory.total <= room:
            log.info(
                "memory planned",
                extra={
                    "recompute": str(how),
                    "planned_gb": round(memory.total / GB, 1),
                    "room_gb": room / GB,
                },
            )
            if how.num_whole_layers == config.num_hidden_layers:
                return None
            return Recomputation(keeps_experts=how.keeps_experts, num_whole_layers=how.num_whole_layers)
    raise ConfigError(_refusal(memory, room))


def plan_memory(trainer: TrainerSection, config: ModelConfig, how: Recompute, rates: Rates) -> TrainMemory:
    """Bytes of one of the trainer's GPUs."""
    layout = TrainLayout(
        gpus=trainer.processes,
        zero=trainer.zero_stage,
        expert_parallel=trainer.expert_parallel,
        sequence_parallel=trainer.sequence_parallel,
        recompute=how,
    )
    return plan_train_memory(config, layout, trainer.pack_tokens, rates)


def _quickest_first(num_layers: int) -> Iterator[Recompute]:
    for whole in range(num_layers, -1, -1):
        yield Recompute(keeps_experts=True, num_whole_layers=whole)
    yield Recompute()


def _chosen(trainer: TrainerSection) -> Recomputation | None:
    if trainer.recompute == "off":
        return None
    return Recomputation(
        keeps_experts=trainer.recompute == "cheap", num_whole_layers=trainer.recompute_whole_layers
    )


def _refusal(memory: TrainMemory, room: float) -> str:
    parts = ", ".join(f"{name} {part / GB:.1f}" for name, part in memory.parts().items() if part)
    return (
        f"a step needs {memory.total / GB:.0f} GB of a GPU with room for {room / GB:.0f} ({parts} GB), with "
        "everything computed again that can be: lower trainer.pack_tokens, raise trainer.sequence_parallel, "
        "trainer.expert_parallel or trainer.processes. `forklight plan` shows what fits"
    )
