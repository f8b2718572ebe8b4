"""For every alert a run in which it must ring, and one beside it in which it must not.

A series' values are promtool's: `0x30` stays, `0+60x30` grows each minute; None: that run has no such series.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Series:
    """One metric in both runs."""

    name: str
    bad: str | None
    good: str | None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """What is fed, and what rings for the bad run at `at`."""

    alert: str
    series: tuple[Series, ...]
    at: str = "30m"
    labels: dict[str, str] = field(default_factory=dict)
    """Of the ringing alert, beside run and severity."""
    run_label: str = "rl_run_id"
    """What tells the runs apart."""


POD = {"service_instance_id": "rollout-7"}
STAGES = "forklight_trainer_stage_duration_seconds_sum"
VERDICTS = "forklight_reward_verdicts_total"
SAMPLES = "forklight_buffer_samples_total"
BUFFER = Series("forklight_buffer_conflicts_total", "0x60", "0x60")
FRONT = {"service_name": "forklight-reward-front"}

LEARNING = (
    Case(
        "ForklightCorrelationUnderGate",
        (
            Series("forklight_trainer_gated_correlation", "0.999x10 0.97x60", "0.997x90"),
            Series("forklight_trainer_correlation_gate", "0.99x90", "0.99x90"),
        ),
    ),
    Case(
        "ForklightEntropyCollapse",
        (Series("forklight_trainer_entropy_nat", "1.2x60 0.1x5", "1.2x60 0.9x5"),),
        at="63m",
    ),
    Case(
        "ForklightEntropyCollapse",
        (Series("forklight_trainer_alarm", "0x10 1x60", "0x90", {"alarm": "entropy"}),),
    ),
    Case(
        "ForklightTrainerAlarm",
        (Series("forklight_trainer_alarm", "0x10 1x60", "0x90", {"alarm": "tail"}),),
        labels={"alarm": "tail"},
    ),
    Case(
        "ForklightStalenessAtBound",
        (
            Series("forklight_trainer_staleness_max", "4x60", "3x60"),
            Series("forklight_buffer_staleness_bound", "4x60", "4x60"),
        ),
    ),
    Case(
        "ForklightNoSignal",
        (
            Series(SAMPLES, "0+95x120", "0+40x120", {"state": "filtered"}),
            Series(SAMPLES, "0+5x120", "0+60x120", {"state": "trained"}),
        ),
        at="40m",
    ),
    Case("ForklightStepOld", (Series("forklight_buffer_step", "7x100", "7x40 8x60"),), at="80m"),
    Case("ForklightRunPaused", (Series("forklight_trainer_pauses_total", "0x25 1x60", "1x90"),)),
    Case(
        "ForklightTrainerIdle",
        (
            Series(STAGES, "0+40x60", "0+10x60", {"stage": "lease"}),
            Series(STAGES, "0+20x60", "0+50x60", {"stage": "train"}),
        ),
        at="40m",
    ),
    Case(
        "ForklightPublicationFailing",
        (Series("forklight_trainer_publication_failures_total", "0x20 4x60", "0x20 1x60"),),
    ),
)

ROLLOUT = (
    Case(
        "ForklightWeightProbeMismatch",
        (Series("forklight_rollout_probe_agrees", "1x10 0x60", "1x90", POD),),
        labels=POD,
    ),
    Case(
        "ForklightWeightsRefused",
        (Series("forklight_rollout_weights_refused_total", "0x16 4x60", "0x16 1x60", POD),),
        labels=POD,
    ),
    Case(
        "ForklightRolloutIdle",
        (
            Series("forklight_rollout_busy_share", "0.1x60", "0.1x60", POD),
            Series("forklight_buffer_queue_depth", "5x60", "0x60", {"queue": "tasks", "held": "no"}),
        ),
    ),
    Case(
        "ForklightRolloutIdle",
        (
            Series("forklight_rollout_busy_share", "0.1x60", "0.8x60", POD),
            Series("forklight_buffer_queue_depth", "5x60", "5x60", {"queue": "tasks", "held": "no"}),
        ),
    ),
    Case(
        "ForklightPodIdle",
        (
            Series("forklight_rollout_busy_share", "0.05x60", "0.7x60", POD),
            Series("forklight_rollout_busy_share", "0.9x60", "0.9x60", {"service_instance_id": "rollout-1"}),
        ),
        labels=POD,
    ),
    Case(
        "ForklightVersionBehind",
        (
            Series("forklight_buffer_version", "9x60", "9x60"),
            Series("forklight_rollout_version", "7x60", "8x60", POD),
        ),
        labels=POD,
    ),
)

BUFFER_CASES = (
    Case("ForklightSamplesStuck", (Series("forklight_buffer_stuck", "3x60", "3x20 0x60"),)),
    Case(
        "ForklightScoringQueueOld",
        (Series("forklight_buffer_queue_age_seconds", "0+60x60", "200x60", {"queue": "scoring"}),),
    ),
    Case(
        "ForklightTaskQueueOld",
        (Series("forklight_buffer_queue_age_seconds", "7000+60x40", "3600x40", {"queue": "tasks"}),),
    ),
    Case(
        "ForklightDeadLetters",
        (
            Series("forklight_buffer_dead_letters_total", "0x60", "0x60"),
            Series("forklight_buffer_dead_letters_total", "_x20 1x40", None, {"queue": "tasks"}),
        ),
    ),
    Case("ForklightConflicts", (Series("forklight_buffer_conflicts_total", "0x20 1x40", "0x60"),)),
    Case(
        "ForklightInfraFailures",
        (
            Series(SAMPLES, "0+5x60", "0x60", {"state": "infra_failed"}),
            Series(SAMPLES, "0+95x60", "0+100x60", {"state": "trained"}),
        ),
    ),
    Case("ForklightSamplesLost", (Series("forklight_trainer_samples_lost_total", "0x20 1x40", "0x60"),)),
)

REWARD = (
    Case(
        "ForklightRewardMasked",
        (
            Series(VERDICTS, "0+10x60", "0+1x60", {"status": "infra_error"}),
            Series(VERDICTS, "0+90x60", "0+99x60", {"status": "ok"}),
        ),
    ),
    Case("ForklightAuditLinesLost", (Series("forklight_reward_audit_lost_total", "0x20 7x40", "0x60"),)),
    Case(
        "ForklightJudgeAlarm",
        (Series("forklight_reward_judge_alarm", "0x20 1x40", "0x60", {"monitor": "length"}),),
        labels={"monitor": "length"},
    ),
)

PRESENCE = (
    Case(
        "ForklightServiceDown",
        (Series("up", "1x10 0x60", "1x60", {"job": "forklight/forklight"}),),
        labels={"job": "forklight/forklight"},
        run_label="instance",
    ),
    Case(
        "ForklightBufferAbsent",
        (
            Series("forklight_buffer_conflicts_total", None, "0x60"),
            Series("forklight_trainer_steps_total", "0x60", "0x60"),
        ),
    ),
    Case("ForklightTrainerAbsent", (BUFFER, Series("forklight_trainer_steps_total", "0x10", "0x60"))),
    Case("ForklightRolloutAbsent", (BUFFER, Series("forklight_rollout_tokens_total", "0x10", "0x60", POD))),
    Case(
        "ForklightRewardAbsent",
        (
            BUFFER,
            Series(VERDICTS, "0x10", "0x60", FRONT),
            Series(VERDICTS, "0x60", "0x60", {"service_name": "forklight-reward-judge"}),
        ),
    ),
)

CASES = (*LEARNING, *ROLLOUT, *BUFFER_CASES, *REWARD, *PRESENCE)
