"""How an engine over vLLM is set up."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """What a pod may choose; all else follows from what the port promises."""

    dtype: str
    num_sequences: int  # decoded together
    max_tokens: int  # prompt and response of one sequence
    cache_bytes: int = 0  # memory for caches; 0 lets vLLM take its share of what is free
    memory_share: float = 0.9  # of a GPU's memory, weights included; used when cache_bytes is 0
    step_tokens: int = 8192  # prompt tokens that one step may take at most
    num_gpus: int = 1  # tensor parallel; the hybrid model takes 1
    uses_graphs: bool = True  # decode steps as CUDA graphs; a CPU has none
    caches_prefixes: bool = False  # shares prompts between sequences; the hybrid model has no such cache
    is_batch_invariant: bool = False  # vLLM's own slower kernels whose bits do not depend on the batch
    start_s: float = 1800.0  # until weights are loaded and graphs recorded
    call_s: float = 600.0  # for a swap or a score

    def __post_init__(self) -> None:
        for name in ("num_sequences", "max_tokens", "step_tokens", "num_gpus"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} of a vLLM engine must be at least 1")
        if self.cache_bytes < 0 or not 0 < self.memory_share <= 1:
            raise ConfigError(
                f"cache_bytes = {self.cache_bytes} must be >= 0 and memory_share = {self.memory_share} in "
                "(0, 1]"
            )
