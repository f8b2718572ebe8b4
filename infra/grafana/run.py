"""Dashboard: does the run learn, and is what it learns from sound?"""

from __future__ import annotations

from infra.grafana.expressions import level, mean, quantile, rate, recorded, spent, total
from infra.grafana.panels import Dashboard, Panel, Row, Unit

T = "forklight.trainer."
B = "forklight.buffer."

_PROGRESS = Row(
    "Progress",
    (
        Panel("Reward", (level(T + "reward", legend="mean"), level(T + "reward_std", legend="deviation"))),
        Panel(
            "Step and version",
            (
                level(B + "step", legend="committed step"),
                level(T + "step", legend="finished step"),
                level(B + "version", legend="announced version"),
                level(T + "version", legend="written version"),
            ),
        ),
        Panel(
            "Held-out rounds",
            (
                level(B + "evaluation.reward", legend="reward"),
                level(B + "evaluation.pass", "k", legend="pass@"),
                total(B + "evaluation.skipped", legend="skipped"),
            ),
        ),
        Panel("Events", (total(B + "events", "severity", "kind"),)),
    ),
)
_POLICY = Row(
    "Policy",
    (
        Panel("Entropy", (level(T + "entropy"),)),
        Panel("Alarms that ring", (level(T + "alarm", "alarm"),), alert="ForklightTrainerAlarm"),
        Panel("Loss", (level(T + "loss"), level(T + "router_auxiliary_loss", legend="router balancing"))),
        Panel("Gradient", (level(T + "grad_norm", legend="norm"), level(T + "grad_clip", legend="clip"))),
    ),
)
_RATIOS = Row(
    "Importance weights",
    (
        Panel("Ratio", (level(T + "ratio_mean", legend="mean"), level(T + "ratio_max", legend="largest"))),
        Panel(
            "Clipped share",
            (
                level(T + "clip_share", legend="at the ceiling"),
                level(T + "clip_share_low", legend="at the floor"),
                level(T + "masked_share", legend="masked"),
            ),
            Unit.SHARE,
        ),
        Panel(
            "Schedule",
            (
                level(T + "eps_high", legend="eps_high"),
                level(T + "token_share", legend="by tokens"),
                level(T + "learning_rate", legend="learning rate"),
            ),
        ),
    ),
)
_AGREEMENT = Row(
    "Trainer against rollout",
    (
        Panel(
            "Correlation",
            (
                level(T + "correlation", of="min", legend="this step"),
                level(T + "gated_correlation", of="min", legend="with the weights that sampled"),
                level(T + "correlation_gate", legend="gate"),
            ),
        ),
        Panel(
            "Difference",
            (level(T + "max_dp", legend="largest, of a probability"), level(T + "mean_kl", legend="mean KL")),
        ),
        Panel(
            "Compared tokens",
            (
                level(T + "parity_tokens", legend="compared"),
                rate(T + "unequal_tokens", legend="unequal a second"),
            ),
        ),
        Panel(
            "Staleness",
            (
                level(T + "staleness", legend="mean"),
                level(T + "staleness_max", legend="largest"),
                level(B + "staleness.bound", legend="bound"),
                quantile(B + "version.lag", 0.99),
            ),
        ),
    ),
)
_RESPONSES = Row(
    "Responses",
    (
        Panel(
            "Length",
            (
                level(T + "response_length", legend="mean"),
                level(T + "response_length_p50", legend="p50"),
                level(T + "response_length_p99", legend="p99"),
                level(T + "window", legend="window of the step"),
                level(B + "window", legend="window of new groups"),
            ),
        ),
        Panel(
            "Length by advantage",
            (
                level(T + "response_length_by_advantage", "advantage", legend="mean"),
                level(T + "response_length_p99_by_advantage", "advantage", legend="p99"),
            ),
        ),
        Panel(
            "Cut off and repeated",
            (level(T + "stopped_share", "reason"), level(T + "repeated_share", legend="repeated tokens")),
            Unit.SHARE,
        ),
        Panel(
            "Perplexity",
            (
                level(T + "perplexity", legend="all"),
                level(T + "tail_perplexity", legend="last quarters"),
                level(T + "tail_ratio", legend="last over first"),
            ),
        ),
    ),
)
_SPEED = Row(
    "Speed of the trainer",
    (
        Panel("Where a step's time goes", (spent(T + "stage_duration", "stage"),), Unit.SHARE, stacked=True),
        Panel(
            "Waiting for batches",
            (recorded("forklight:trainer:wait_share15m", "share of the time"),),
            Unit.SHARE,
            "ForklightTrainerIdle",
        ),
        Panel(
            "Tokens a second",
            (
                level(T + "token_rate", legend="in training"),
                rate(T + "tokens", legend="over all"),
                rate(T + "put_in_tokens", legend="of tools, not learned"),
            ),
        ),
        Panel(
            "Wait for a batch",
            (quantile(B + "batch.wait", 0.5), quantile(B + "batch.wait", 0.99)),
            Unit.SECONDS,
        ),
    ),
)
_DURABLE = Row(
    "Checkpoints and versions",
    (
        Panel(
            "Checkpoint",
            (
                mean(T + "checkpoint.write", legend="written beside the step"),
                mean(T + "checkpoint.wait", legend="stood still"),
            ),
            Unit.SECONDS,
        ),
        Panel("Publication", (mean(T + "publication.duration", "kind"),), Unit.SECONDS),
        Panel("Bytes published", (rate(T + "publication.bytes", "kind"),), Unit.BYTES),
        Panel("Stored share of a version", (level(T + "publication.stored_share"),), Unit.SHARE),
    ),
)
_TROUBLE = Row(
    "Trouble",
    (
        Panel("Pauses", (total(T + "pauses", "error"), total(T + "roll_backs", legend="roll-backs"))),
        Panel("Samples whose blob was lost", (total(T + "samples_lost"),)),
        Panel("Failed publications", (total(T + "publication.failures", "error"),)),
        Panel("Steps of this trainer", (total(T + "steps"),)),
    ),
)

RUN_BOARD = Dashboard(
    name="run",
    title="run",
    description="Does the run learn, and is what it learns from sound?",
    rows=(_PROGRESS, _POLICY, _RATIOS, _AGREEMENT, _RESPONSES, _SPEED, _DURABLE, _TROUBLE),
)
