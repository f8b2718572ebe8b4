"""The optimizer, its steps, and the processes that compute them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forklight_core.runfile.sections.section import Positive, Section
from forklight_core.runfile.units import Count


class TrainerSection(Section):
    """The optimizer and its steps."""

    steps: Positive = 1000
    """Optimizer steps of the run."""
    groups_per_step: Positive = 32
    """Groups an optimizer step learns from."""
    updates_per_version: Annotated[int, Field(ge=1, le=64)] = 16
    """Optimizer steps between two published versions: off-policy updates a generation batch."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-6
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW weight decay."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """AdamW beta1."""
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    """AdamW beta2."""
    adam_eps: Annotated[float, Field(gt=0.0)] = 1e-15
    """AdamW epsilon. Gradients span 1e-18 to 1e-5, so 1e-8 would freeze most weights."""
    grad_clip: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest global gradient norm."""
    pack_tokens: Count = 65536
    """Tokens of one packed micro-batch; the longest sample must fit."""
    router_auxiliary_loss: bool = False
    """Add the published router balancing loss with the checkpoint's own coefficient."""
    checkpoint_every_steps: Positive = 1
    """Optimizer steps between checkpoints: what a crash may cost at most."""
    engine: Literal["torch", "deepspeed"] = "torch"
    """torch: one process; deepspeed: `processes` share weights, optimizer and packs (the extra deepspeed)."""
    processes: Annotated[int, Field(ge=1, le=65536)] = 1
    """GPUs of the trainer, over all its nodes (on a CPU: processes)."""
    zero_stage: Annotated[int, Field(ge=1, le=3)] = 3
    """DeepSpeed: 1 shares the optimizer, 2 gradients as well, 3 weights as well."""
    sequence_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """DeepSpeed: neighbouring processes that share the tokens of a pack."""
    lightning_spread: Literal["heads", "states"] = "heads"
    """What processes that share tokens send in lightning layers: heads (exact) or states (fewer bytes)."""
    expert_parallel: Annotated[int, Field(ge=1, le=256)] = 1
    """DeepSpeed: neighbouring processes that share the experts of a layer."""
    recompute: Literal["auto", "off", "cheap", "all"] = "auto"
    """Activations computed again: all, or all but the experts' (cheap). auto: what fits; off on a CPU."""
    recompute_whole_layers: Annotated[int, Field(ge=0)] = 0
    """The last so many layers keep everything: their gradients come first."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 lets torch choose."""
