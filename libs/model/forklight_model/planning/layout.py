"""How a run is laid over GPUs, and which layouts cannot be."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.errors import ConfigError
from forklight_model.config import ModelConfig
from forklight_model.planning.hardware import GPUS_A_NODE

ZERO_STAGES = (1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """What the backward pass computes again; a block's input is always kept."""

    keeps_experts: bool = False
    """The experts' gate and up are kept."""
    num_whole_layers: int = 0
    """So many layers keep everything."""

    def __str__(self) -> str:
        if not self.keeps_experts and not self.num_whole_layers:
            return "every block"
        kept = " but the experts' gate and up" if self.keeps_experts else ""
        return f"every block{kept}, and none of {self.num_whole_layers} layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainLayout:
    """The trainer's GPUs."""

    gpus: int
    zero: int = 3
    expert_parallel: int = 1
    sequence_parallel: int = 1
    recompute: Recompute = Recompute()

    def check(self, config: ModelConfig) -> None:
        """ConfigError where the model cannot be cut so."""
        _check_divides("--expert-parallel", self.expert_parallel, config.num_local_experts, "experts")
        _check_divides("--sequence-parallel", self.sequence_parallel, config.num_key_value_heads, "key heads")
        if self.zero not in ZERO_STAGES:
            raise ConfigError(f"--zero {self.zero} does not exist: choose 1, 2 or 3")

    @property
    def divides(self) -> bool:
        """Whether the GPUs make whole groups."""
        return self.gpus % self.expert_parallel == 0 and self.gpus % self.sequence_parallel == 0

    @property
    def is_one_gpu(self) -> bool:
        return self.gpus == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutLayout:
    """The rollout pods: each decodes with one copy of the weights, cut over its GPUs."""

    pods: int
    gpus_per_pod: int
    is_shared: bool = False
    """The same GPUs train: both lie in memory, and the times add up."""

    @property
    def gpus(self) -> int:
        return self.pods * self.gpus_per_pod

    def divides(self, config: ModelConfig) -> bool:
        """Whether a model can be cut into so many parts."""
        try:
            self.check(config)
        except ConfigError:
            return False
        return True

    def check(self, config: ModelConfig) -> None:
        """ConfigError where a layer has outputs that do not divide. Key heads may be replicated."""
        for what in ("num_attention_heads", "hidden_size", "intermediate_size", "vocab_size"):
            _check_divides("--rollout-pod", self.gpus_per_pod, getattr(config, what), what)
        key_heads = config.num_key_value_heads
        if key_heads % self.gpus_per_pod and self.gpus_per_pod % key_heads:
            raise ConfigError(
                f"--rollout-pod {self.gpus_per_pod} and {key_heads} key heads: one must divide the other"
            )


def largest_group(limit: int, *totals: int) -> int:
    """The largest power of two up to a limit that divides all of them."""
    size = 1
    while size * 2 <= limit and all(total % (size * 2) == 0 for total in totals):
        size *= 2
    return size


def default_groups(config: ModelConfig, gpus: int) -> tuple[int, int]:
    """Expert and sequence parallel degrees: a node each, where the model divides."""
    expert = largest_group(GPUS_A_NODE, gpus, config.num_local_experts)
    return expert, largest_group(GPUS_A_NODE, gpus, config.num_key_value_heads)


def _check_divides(option: str, size: int, total: int, what: str) -> None:
    if size < 1 or total % size:
        divisors = [each for each in range(1, min(total, 64) + 1) if total % each == 0]
        raise ConfigError(
            f"{option} {size} does not divide {total} {what}: choose one of {', '.join(map(str, divisors))}"
        )
