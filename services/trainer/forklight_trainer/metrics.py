"""This service's metrics, by the names of the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from forklight_core.telemetry import counter, gauge, histogram

if TYPE_CHECKING:
    from forklight_trainer.steps.records import StepRecord

STEPS = "forklight.trainer.steps"
TOKENS = "forklight.trainer.tokens"
SAMPLES_LOST = "forklight.trainer.samples_lost"
PAUSES = "forklight.trainer.pauses"
STAGE_DURATION = "forklight.trainer.stage_duration"
STEP = "forklight.trainer.step"
VERSION = "forklight.trainer.version"
REWARD = "forklight.trainer.reward"
RESPONSE_LENGTH = "forklight.trainer.response_length"
ENTROPY = "forklight.trainer.entropy"
LOSS = "forklight.trainer.loss"
GRAD_NORM = "forklight.trainer.grad_norm"
RATIO_MAX = "forklight.trainer.ratio_max"
CLIP_SHARE = "forklight.trainer.clip_share"
MASKED_SHARE = "forklight.trainer.masked_share"
STALENESS = "forklight.trainer.staleness"
CORRELATION = "forklight.trainer.correlation"
GATED_CORRELATION = "forklight.trainer.gated_correlation"
CORRELATION_GATE = "forklight.trainer.correlation_gate"
MEAN_KL = "forklight.trainer.mean_kl"
UNEQUAL_TOKENS = "forklight.trainer.unequal_tokens"
ROUTER_LOSS = "forklight.trainer.router_auxiliary_loss"
CHECKPOINT_WRITE = "forklight.trainer.checkpoint.write"
CHECKPOINT_WAIT = "forklight.trainer.checkpoint.wait"
ROLL_BACKS = "forklight.trainer.roll_backs"
WINDOW = "forklight.trainer.window"
PERPLEXITY = "forklight.trainer.perplexity"
TAIL_RATIO = "forklight.trainer.tail_ratio"
REPEATED_SHARE = "forklight.trainer.repeated_share"
STOPPED_SHARE = "forklight.trainer.stopped_share"
LENGTH_P99 = "forklight.trainer.response_length_p99"
LENGTH_BY_SIGN = "forklight.trainer.response_length_by_advantage"
ALARM = "forklight.trainer.alarm"
EPS_HIGH = "forklight.trainer.eps_high"
GRAD_CLIP = "forklight.trainer.grad_clip"
LEARNING_RATE = "forklight.trainer.learning_rate"
TOKEN_SHARE = "forklight.trainer.token_share"
PUT_IN_TOKENS = "forklight.trainer.put_in_tokens"
REWARD_STD = "forklight.trainer.reward_std"
RATIO_MEAN = "forklight.trainer.ratio_mean"
CLIP_SHARE_LOW = "forklight.trainer.clip_share_low"
STALENESS_MAX = "forklight.trainer.staleness_max"
MAX_DP = "forklight.trainer.max_dp"
PARITY_TOKENS = "forklight.trainer.parity_tokens"
TAIL_PERPLEXITY = "forklight.trainer.tail_perplexity"
LENGTH_P50 = "forklight.trainer.response_length_p50"
LENGTH_P99_BY_SIGN = "forklight.trainer.response_length_p99_by_advantage"
TOKENS_PER_S = "forklight.trainer.token_rate"
PUBLICATION_DURATION = "forklight.trainer.publication.duration"
PUBLICATION_BYTES = "forklight.trainer.publication.bytes"
PUBLICATION_STORED_SHARE = "forklight.trainer.publication.stored_share"
PUBLICATION_FAILURES = "forklight.trainer.publication.failures"


def record_step(record: StepRecord) -> None:
    """Everything a finished step measured."""
    counter(STEPS).add(1)
    counter(TOKENS).add(record.tokens)
    counter(PUT_IN_TOKENS).add(record.put_in_tokens)
    counter(UNEQUAL_TOKENS).add(record.unequal_tokens or 0)
    record_stages(record.seconds)
    for name, value in (*_training(record), *_samples(record)):
        _set(name, value)
    _set(STOPPED_SHARE, record.window_stops, reason="length")
    _set(STOPPED_SHARE, record.repetition_stops, reason="repetition")
    _set(LENGTH_BY_SIGN, record.length_mean_positive, advantage="positive")
    _set(LENGTH_BY_SIGN, record.length_mean_negative, advantage="negative")
    _set(LENGTH_P99_BY_SIGN, record.length_p99_positive, advantage="positive")
    _set(LENGTH_P99_BY_SIGN, record.length_p99_negative, advantage="negative")


def _training(record: StepRecord) -> tuple[tuple[str, float | None], ...]:
    """What the update was, and how trainer and rollout agree."""
    return (
        (STEP, record.step),
        (VERSION, record.version),
        (LOSS, record.loss),
        (ROUTER_LOSS, record.router_auxiliary_loss),
        (GRAD_NORM, record.grad_norm),
        (RATIO_MEAN, record.ratio_mean),
        (RATIO_MAX, record.ratio_max),
        (CLIP_SHARE, record.clip_share_high),
        (CLIP_SHARE_LOW, record.clip_share_low),
        (MASKED_SHARE, record.masked_share),
        (CORRELATION, record.correlation),
        (MEAN_KL, record.mean_kl),
        (MAX_DP, record.max_dp),
        (PARITY_TOKENS, record.parity_tokens),
        (LEARNING_RATE, record.learning_rate),
        (GRAD_CLIP, record.grad_clip),
        (EPS_HIGH, record.eps_high),
        (TOKEN_SHARE, record.token_share),
        (TOKENS_PER_S, record.tokens_per_s),
    )


def _samples(record: StepRecord) -> tuple[tuple[str, float | None], ...]:
    """What the policy wrote."""
    return (
        (REWARD, record.reward_mean),
        (REWARD_STD, record.reward_std),
        (RESPONSE_LENGTH, record.length_mean),
        (LENGTH_P50, record.length_p50),
        (LENGTH_P99, record.length_p99),
        (WINDOW, record.window),
        (ENTROPY, record.entropy),
        (PERPLEXITY, record.perplexity),
        (TAIL_PERPLEXITY, record.tail_perplexity),
        (TAIL_RATIO, record.tail_ratio),
        (REPEATED_SHARE, record.repeated_share),
        (STALENESS, record.staleness_mean),
        (STALENESS_MAX, record.staleness_max),
    )


def record_gate(correlation: float, min_correlation: float) -> None:
    """Agreement with the weights that sampled the tokens, and what it is held against."""
    _set(GATED_CORRELATION, correlation)
    gauge(CORRELATION_GATE).set(min_correlation)


def record_alarms(ringing: Mapping[str, bool]) -> None:
    """Which alarms ring after a step."""
    for name, rings in ringing.items():
        gauge(ALARM).set(int(rings), {"alarm": name})


def _set(name: str, value: float | None, **labels: str) -> None:
    """What was not measured leaves the gauge as it is."""
    if value is not None and math.isfinite(value):
        gauge(name).set(value, labels)


def record_stages(seconds: Mapping[str, float]) -> None:
    """How long each stage of a step took."""
    for stage, value in seconds.items():
        histogram(STAGE_DURATION).record(value, {"stage": stage})


def count_pause(error: Exception) -> None:
    counter(PAUSES).add(1, {"error": type(error).__name__})


def count_lost_sample() -> None:
    counter(SAMPLES_LOST).add(1)


def record_checkpoint_write(seconds: float) -> None:
    """From the copy to a durable folder, in the background."""
    histogram(CHECKPOINT_WRITE).record(seconds)


def record_checkpoint_wait(seconds: float) -> None:
    """The loop stood still for what the background had to do."""
    histogram(CHECKPOINT_WAIT).record(seconds)


def record_publication(kind: str, *, seconds: float, num_bytes: int, num_stored_bytes: int) -> None:
    """A version was written: `num_stored_bytes` of the `num_bytes` that its tensors have."""
    histogram(PUBLICATION_DURATION).record(seconds, {"kind": kind})
    counter(PUBLICATION_BYTES).add(num_stored_bytes, {"kind": kind})
    gauge(PUBLICATION_STORED_SHARE).set(num_stored_bytes / max(1, num_bytes))


def count_publication_failure(error: Exception) -> None:
    """An attempt; what goes away by itself is tried again."""
    counter(PUBLICATION_FAILURES).add(1, {"error": type(error).__name__})


def count_roll_back() -> None:
    counter(ROLL_BACKS).add(1)
