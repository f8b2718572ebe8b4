"""The run itself, its model, prompts, and how responses are sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forklight_core.runfile.sections.section import Section
from forklight_core.runfile.units import Count


class RunSection(Section):
    """Name and place of the run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")] = "run"
    """Short name; the run id and the run folder start with it."""
    folder: str = "runs"
    """Folder that holds run folders, relative to where the command is called."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of prompt order, sampling and initial weights."""


class ModelSection(Section):
    """The policy."""

    size: Literal["nano", "mini", "small", "minimax-m1"] = "nano"
    """Architecture to start from when `path` and `hf` are empty."""
    path: str = ""
    """Folder of a checkpoint in the published layout to start from."""
    hf: str = ""
    """Folder of a causal language model of transformers to start from (the extra `hf`; tolerance mode)."""
    chat: bool | None = None
    """Put prompts through the tokenizer's chat template. None: if it has one, and no turn markup of ours."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations; the LM head is fp32 on both sides in any case."""


class PromptsSection(Section):
    """Where prompts come from: JSON lines of {id, prompt, kind, gold, spec, tools} and, for
    [curriculum], {domain, source, level, synthetic}."""

    train: str = ""
    """File of training prompts."""
    holdout: str = ""
    """File of held-out prompts for evaluation; empty: no evaluation."""
    shuffle: bool = True
    """Shuffle the prompts anew in every epoch, by the run's seed."""


class SamplingSection(Section):
    """How responses are sampled."""

    group_size: Annotated[int, Field(ge=1, le=256)] = 16
    """G: samples a prompt."""
    max_new_tokens: Count = 40960
    """Length window of a response, in tokens."""
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    """Sampling temperature of training groups."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus; 1 keeps every token."""
    repetition_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """A token with a probability above this counts as near-certain."""
    repetition_tokens: Annotated[int, Field(ge=0)] = 3000
    """Stop after so many near-certain tokens in a row; 0 never stops."""
