"""What a person asks to be planned, with all that was left open decided in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forklight_core.errors import ConfigError
from forklight_model.config import ModelConfig
from forklight_model.planning.assumptions import Rates, Workload
from forklight_model.planning.hardware import Gpu
from forklight_model.planning.layout import Recompute


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run to plan. None: the planner chooses."""

    model: str
    config: ModelConfig
    gpu: Gpu
    gpus: int
    rates: Rates = field(default_factory=Rates)
    workload: Workload = field(default_factory=Workload)
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where values come from that are not defaults."""
    zero: int = 3
    expert_parallel: int | None = None
    sequence_parallel: int | None = None
    rollout_share: float | None = None
    """Share of the GPUs that only generate; 0: the same GPUs do both in turn."""
    rollout_pod: int | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(f"--gpus {self.gpus} must be at least 1")
        if self.rollout_share is not None and not 0 <= self.rollout_share < 1:
            raise ConfigError(f"--rollout-share {self.rollout_share} must be at least 0 and below 1")
        window, positions = self.workload.window, self.config.max_position_embeddings
        if window + self.workload.prompt_tokens > positions:
            raise ConfigError(
                f"--window {window:.0f} and its prompt exceed the model's {positions} positions"
            )
        longest = window + self.workload.prompt_tokens
        if 0 < self.workload.pack_tokens < longest:
            raise ConfigError(
                f"pack_tokens = {self.workload.pack_tokens:.0f} is less than the longest sample, "
                f"{longest:.0f}: raise it or lower --window"
            )

    @property
    def pack_tokens(self) -> float:
        return self.workload.pack_tokens or self.workload.window + self.workload.prompt_tokens

    @property
    def recomputations(self) -> tuple[Recompute, ...]:
        """From little to all; the first that fits is taken."""
        quarter = self.config.num_hidden_layers // 4
        return (
            Recompute(keeps_experts=True, num_whole_layers=quarter),
            Recompute(keeps_experts=True),
            Recompute(),
        )
