"""What a cold start says while it goes: plain records, and the JSON line of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from forklight_trainer.sft.check import CheckProgress, CorpusFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What the stage learns from, checked."""

    demonstrations: str
    figures: CorpusFigures
    holdout: CorpusFigures | None
    num_steps: int
    num_epochs: float
    mean_examples: float
    """A step; like the two below, of the first steps."""
    mean_tokens: float
    mean_packs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStart:
    """Training begins, or goes on behind this step."""

    step: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SftProgress:
    """One finished step."""

    step: int
    num_steps: int
    loss: float
    """Mean negative log-likelihood of the step's counted tokens, by their weights."""
    num_tokens: int
    """Fed to the model since the first step."""
    seconds: float
    """Since this process began."""
    learning_rate: float
    grad_norm: float
    tokens_per_s: float
    eta_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutRound:
    """The held-out loss after a step."""

    step: int
    loss: float
    perplexity: float
    best_loss: float
    best_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSaved:
    """A checkpoint is on disk: what was learned up to this step survives a crash."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SftResult:
    """How a cold start ended."""

    folder: Path
    is_finished: bool
    """False: it was told to stop, and can be resumed."""
    step: int
    num_steps: int
    loss: float | None
    """Of the last step."""
    num_tokens: int
    seconds: float
    holdout_loss: float | None = None


Event = CheckProgress | DataReport | StageStart | SftProgress | HoldoutRound | StageSaved | SftResult
Tell = Callable[[Event], None]

NAMES: dict[type[Event], str] = {
    CheckProgress: "check",
    DataReport: "data",
    StageStart: "start",
    SftProgress: "step",
    HoldoutRound: "holdout",
    StageSaved: "saved",
    SftResult: "end",
}


def event_line(event: Event) -> str:
    """One JSON object; `event` says which kind."""
    return json.dumps({"event": NAMES[type(event)], **asdict(event)}, default=str)
