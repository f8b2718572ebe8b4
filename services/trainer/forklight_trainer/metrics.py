"""This service's metrics, by the names of the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping

from forklight_core.telemetry import counter, gauge, histogram
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


def record_step(record: StepRecord) -> None:
    """Everything a finished step measured."""
    counter(STEPS).add(1)
    counter(TOKENS).add(record.tokens)
    counter(UNEQUAL_TOKENS).add(record.unequal_tokens or 0)
    record_stages(record.seconds)
    for name, value in (
        (STEP, record.step),
        (VERSION, record.version),
        (REWARD, record.reward_mean),
        (RESPONSE_LENGTH, record.length_mean),
        (ENTROPY, record.entropy),
        (LOSS, record.loss),
        (GRAD_NORM, record.grad_norm),
        (RATIO_MAX, record.ratio_max),
        (CLIP_SHARE, record.clip_share_high),
        (MASKED_SHARE, record.masked_share),
        (STALENESS, record.staleness_mean),
        (CORRELATION, record.correlation),
        (MEAN_KL, record.mean_kl),
        (ROUTER_LOSS, record.router_auxiliary_loss),
        (WINDOW, record.window),
        (PERPLEXITY, record.perplexity),
        (TAIL_RATIO, record.tail_ratio),
        (REPEATED_SHARE, record.repeated_share),
        (LENGTH_P99, record.length_p99),
    ):
        _set(name, value)
    _set(STOPPED_SHARE, record.window_stops, reason="length")
    _set(STOPPED_SHARE, record.repetition_stops, reason="repetition")
    _set(LENGTH_BY_SIGN, record.length_mean_positive, advantage="positive")
    _set(LENGTH_BY_SIGN, record.length_mean_negative, advantage="negative")


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


def count_roll_back() -> None:
    counter(ROLL_BACKS).add(1)
