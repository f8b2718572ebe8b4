"""One JSON line a step in steps.jsonl: the curve of the run. A resumed run continues it without doubles."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from forklight_trainer.durable import write_file
from forklight_trainer.steps.step import StepOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """The figures of one step. NaN is written as null."""

    step: int
    version: int
    time: float
    num_groups: int
    num_samples: int
    tokens: int
    """Drawn by the policy: what the loss is a mean over."""
    put_in_tokens: int
    """Put into responses by tools, never learned from."""
    reward_mean: float
    reward_std: float
    length_mean: float
    length_p50: float
    length_p99: float
    length_mean_positive: float
    length_p99_positive: float
    length_mean_negative: float
    length_p99_negative: float
    window: int
    """Tokens that a response opened in this step may have."""
    window_stops: float
    repetition_stops: float
    repeated_share: float
    perplexity: float
    tail_perplexity: float
    tail_ratio: float
    entropy: float
    loss: float
    router_auxiliary_loss: float | None
    """Router balancing loss before its coefficient, which `loss` does not contain; None: not added."""
    grad_norm: float
    ratio_mean: float
    ratio_max: float
    clip_share_high: float
    clip_share_low: float
    masked_share: float
    staleness_mean: float
    staleness_max: int
    correlation: float
    max_dp: float
    mean_kl: float
    parity_tokens: int
    unequal_tokens: int | None
    """Those of them whose log-probs differ in bits; None: off-policy figures."""
    parity_version: int | None
    """Version that sampled these tokens and scored them again: it gates. None: off-policy figures."""
    learning_rate: float
    grad_clip: float
    eps_high: float | None
    """The ceiling of the weight is 1 more; None: the algorithm does not clip weights."""
    normalization: str
    token_share: float
    """Share of the loss that goes by tokens and not by samples: 1 for token, 0 for sample."""
    seconds: Mapping[str, float]
    """By stage: lease, fetch, train, checkpoint, commit, publish."""
    tokens_per_s: float
    """Response tokens over the seconds of the train stage."""


def build_record(
    outcome: StepOutcome, *, step: int, version: int, window: int, seconds: Mapping[str, float]
) -> StepRecord:
    """Join what a step measured with how long its stages took."""
    batch, tokens, parity = outcome.batch, outcome.tokens, outcome.parity
    return StepRecord(
        step=step,
        version=version,
        time=round(time.time(), 3),
        num_groups=batch.num_groups,
        num_samples=batch.num_samples,
        tokens=batch.num_tokens,
        put_in_tokens=batch.num_put_in,
        reward_mean=batch.reward_mean,
        reward_std=batch.reward_std,
        length_mean=batch.length_mean,
        length_p50=batch.length_p50,
        length_p99=batch.length_p99,
        window=window,
        staleness_mean=batch.staleness_mean,
        staleness_max=batch.staleness_max,
        **asdict(outcome.sequences),
        **asdict(tokens),
        grad_norm=outcome.grad_norm,
        correlation=parity.correlation,
        max_dp=parity.max_dp,
        mean_kl=parity.mean_kl,
        parity_tokens=parity.num_tokens,
        unequal_tokens=parity.num_unequal,
        parity_version=parity.version,
        learning_rate=outcome.recipe.learning_rate,
        grad_clip=outcome.recipe.grad_clip,
        eps_high=outcome.recipe.eps_high,
        normalization=outcome.recipe.normalization,
        token_share=outcome.recipe.token_share,
        seconds={name: round(value, 4) for name, value in seconds.items()},
        tokens_per_s=round(batch.num_tokens / max(seconds.get("train", 0.0), 1e-9), 1),
    )


def append_record(path: Path, record: StepRecord) -> None:
    """Add one line. A line lost with the power comes back when the step is redone."""
    content = record_content(record)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content, separators=(",", ":")) + "\n")


def record_content(record: StepRecord) -> dict[str, object]:
    """The JSON object of a line."""
    return {name: _finite(value) for name, value in asdict(record).items()}


def truncate_records(path: Path, step: int) -> int:
    """Drop the lines of steps after the restored one, and a torn last line; returns how many lines stay."""
    if not path.exists():
        return 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if 0 < _step_of(line) <= step]
    if len(kept) != len(lines):
        write_file(path, "".join(f"{line}\n" for line in kept).encode())
    return len(kept)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
