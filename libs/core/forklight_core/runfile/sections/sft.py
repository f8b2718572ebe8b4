"""The cold start."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forklight_core.runfile.sections.section import Fraction, Positive, Section
from forklight_core.runfile.units import Count


class SftSection(Section):
    """Cold start: supervised training from random weights or `model.path`."""

    demonstrations: str = ""
    """JSON lines of {prompt, response} or {messages: [{role, content}]}; empty: no cold start."""
    holdout: str = ""
    """The same of demonstrations that are never learned from, to measure the loss on; empty: none."""
    steps: Positive = 500
    """Optimizer steps, unless `epochs` is given."""
    epochs: Annotated[float, Field(gt=0.0)] | None = None
    """Passes over the demonstrations; given, it takes the place of `steps`."""
    batch_size: Positive = 64
    """Demonstrations a step, unless `tokens_per_step` is given."""
    tokens_per_step: Count | None = None
    """Tokens a step at most, in whole demonstrations; given, it takes the place of `batch_size`."""
    shuffle: bool = True
    """Shuffle the demonstrations anew in every epoch, by the run's seed."""
    pack_tokens: Count = 65536
    """Tokens of one packed micro-batch."""
    max_tokens: Count | None = None
    """Longest demonstration; None: `pack_tokens`. Never more than the model's max_position_embeddings."""
    on_too_long: Literal["refuse", "drop", "cut"] = "refuse"
    """A longer one: the stage does not start, goes without it, or cuts its end off."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """Peak learning rate; after a linear warm-up a cosine leads down from it."""
    warmup_share: Fraction = 0.1
    """Share of the steps that warm up."""
    final_share: Fraction = 0.1
    """Where the cosine ends, as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW weight decay."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """AdamW beta1."""
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    """AdamW beta2."""
    adam_eps: Annotated[float, Field(gt=0.0)] = 1e-15
    """AdamW epsilon."""
    grad_clip: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest global gradient norm."""
    holdout_every_steps: Positive = 50
    """Steps between two measurements of the held-out loss; the last step always has one."""
    stop_after_rounds: Annotated[int, Field(ge=0)] = 0
    """End the stage after so many measurements in a row without a new lowest held-out loss; 0: never."""
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 100
    """Steps between checkpoints of the stage: what a crash may cost at most; 0: none."""
