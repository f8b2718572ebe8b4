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
    ):
        if value is not None and math.isfinite(value):
            gauge(name).set(value)


def record_stages(seconds: Mapping[str, float]) -> None:
    """How long each stage of a step took."""
    for stage, value in seconds.items():
        histogram(STAGE_DURATION).record(value, {"stage": stage})


def count_pause(error: Exception) -> None:
    counter(PAUSES).add(1, {"error": type(error).__name__})


def count_lost_sample() -> None:
    counter(SAMPLES_LOST).add(1)
