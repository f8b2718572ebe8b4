"""The trainer's metrics, by name."""

from __future__ import annotations

from forklight_core.telemetry.metric_spec import MetricKind, MetricSpec

C, H, G = MetricKind.COUNTER, MetricKind.HISTOGRAM, MetricKind.GAUGE

TRAINER_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "forklight.trainer.correlation_gate",
        G,
        "1",
        "parity.min_correlation: below it the trainer pauses the run",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.alarm", G, "1", "1 while an alarm rings, by alarm", "trainer", labels=("alarm",)
    ),
    MetricSpec(
        "forklight.trainer.checkpoint.wait",
        H,
        "s",
        "Time the trainer stood still for a checkpoint, a commit or an announcement",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.checkpoint.write",
        H,
        "s",
        "Time from a checkpoint's copy in memory to a durable folder, beside the next step",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.clip_share", G, "1", "Share of tokens whose weight met the ceiling", "trainer"
    ),
    MetricSpec(
        "forklight.trainer.clip_share_low", G, "1", "Share of tokens whose weight met the floor", "trainer"
    ),
    MetricSpec(
        "forklight.trainer.correlation",
        G,
        "1",
        "Correlation of trainer's and rollout's probabilities",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.entropy", G, "nat", "Mean entropy of the policy on the step's tokens", "trainer"
    ),
    MetricSpec(
        "forklight.trainer.eps_high",
        G,
        "1",
        "Ceiling of the weight less 1, as the schedule has it in the step",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.grad_clip",
        G,
        "1",
        "Largest gradient norm, as the schedule has it in the step",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.gated_correlation",
        G,
        "1",
        "The same with the very weights that sampled the tokens; what correlation_gate is for",
        "trainer",
    ),
    MetricSpec("forklight.trainer.grad_norm", G, "1", "Gradient norm before clipping", "trainer"),
    MetricSpec(
        "forklight.trainer.learning_rate", G, "1", "Learning rate of the step, warm-up included", "trainer"
    ),
    MetricSpec("forklight.trainer.loss", G, "1", "Loss of the step", "trainer"),
    MetricSpec(
        "forklight.trainer.masked_share", G, "1", "Share of tokens dropped by the unified mask", "trainer"
    ),
    MetricSpec(
        "forklight.trainer.max_dp",
        G,
        "1",
        "Largest difference of trainer's and rollout's probabilities of a token",
        "trainer",
    ),
    MetricSpec("forklight.trainer.mean_kl", G, "nat", "Mean KL of rollout to trainer", "trainer"),
    MetricSpec(
        "forklight.trainer.parity_tokens",
        G,
        "{token}",
        "Tokens that the agreement of the step was measured on",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.pauses",
        C,
        "{pause}",
        "Times the trainer paused the run, by error",
        "trainer",
        labels=("error",),
    ),
    MetricSpec(
        "forklight.trainer.perplexity",
        G,
        "1",
        "Perplexity of the step's responses under the trainer's weights",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.publication.bytes",
        C,
        "By",
        "Bytes of tensors written for versions, by kind: full or delta",
        "trainer",
        labels=("kind",),
    ),
    MetricSpec(
        "forklight.trainer.publication.duration",
        H,
        "s",
        "Time to write a version, by kind: full or delta",
        "trainer",
        labels=("kind",),
    ),
    MetricSpec(
        "forklight.trainer.publication.failures",
        C,
        "{attempt}",
        "Attempts to write a version that failed, by error",
        "trainer",
        labels=("error",),
    ),
    MetricSpec(
        "forklight.trainer.publication.stored_share",
        G,
        "1",
        "What the newest version stores, as a share of its tensors' bytes: 1 when it is full",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.put_in_tokens",
        C,
        "{token}",
        "Tokens that tools put into responses, never learned from",
        "trainer",
    ),
    MetricSpec("forklight.trainer.ratio_max", G, "1", "Largest importance ratio of the step", "trainer"),
    MetricSpec("forklight.trainer.ratio_mean", G, "1", "Mean importance ratio of the step", "trainer"),
    MetricSpec(
        "forklight.trainer.repeated_share",
        G,
        "1",
        "Share of tokens in stretches their response has had before",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.response_length", G, "{token}", "Mean response length of the step", "trainer"
    ),
    MetricSpec(
        "forklight.trainer.response_length_by_advantage",
        G,
        "{token}",
        "Mean response length, by sign of the advantage",
        "trainer",
        labels=("advantage",),
    ),
    MetricSpec(
        "forklight.trainer.response_length_p50",
        G,
        "{token}",
        "Median of the step's response lengths",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.response_length_p99",
        G,
        "{token}",
        "99th percentile of the step's response lengths",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.response_length_p99_by_advantage",
        G,
        "{token}",
        "99th percentile of response lengths, by sign of the advantage",
        "trainer",
        labels=("advantage",),
    ),
    MetricSpec("forklight.trainer.reward", G, "1", "Mean reward of the step's samples", "trainer"),
    MetricSpec("forklight.trainer.reward_std", G, "1", "Deviation of the step's rewards", "trainer"),
    MetricSpec(
        "forklight.trainer.roll_backs",
        C,
        "{time}",
        "Times the run went back to an older checkpoint",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.router_auxiliary_loss",
        G,
        "1",
        "Router balancing loss of the step, before its coefficient",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.samples_lost", C, "{sample}", "Samples whose blob could not be read", "trainer"
    ),
    MetricSpec(
        "forklight.trainer.stage_duration",
        H,
        "s",
        "Time of a step's stage, by stage",
        "trainer",
        labels=("stage",),
    ),
    MetricSpec(
        "forklight.trainer.staleness", G, "{version}", "Mean versions the step's tokens are behind", "trainer"
    ),
    MetricSpec(
        "forklight.trainer.staleness_max",
        G,
        "{version}",
        "Most versions a token of the step is behind",
        "trainer",
    ),
    MetricSpec("forklight.trainer.step", G, "{step}", "Last finished optimizer step", "trainer"),
    MetricSpec("forklight.trainer.steps", C, "{step}", "Optimizer steps done by this process", "trainer"),
    MetricSpec(
        "forklight.trainer.stopped_share",
        G,
        "1",
        "Share of responses cut off, by reason: window or repetition",
        "trainer",
        labels=("reason",),
    ),
    MetricSpec(
        "forklight.trainer.tail_perplexity",
        G,
        "1",
        "Perplexity of the last quarters of long responses",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.tail_ratio",
        G,
        "1",
        "Perplexity of long responses' last quarters over that of the first",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.token_share",
        G,
        "1",
        "Share of the loss that goes by tokens: 1 is token, 0 is sample normalisation",
        "trainer",
    ),
    MetricSpec("forklight.trainer.tokens", C, "{token}", "Response tokens learned from", "trainer"),
    MetricSpec(
        "forklight.trainer.token_rate",
        G,
        "{token}/s",
        "Response tokens over the seconds of the step's train stage",
        "trainer",
    ),
    MetricSpec(
        "forklight.trainer.unequal_tokens",
        C,
        "{token}",
        "Tokens whose log-prob differs in bits from that of the weights that sampled them",
        "trainer",
    ),
    MetricSpec("forklight.trainer.version", G, "{version}", "Newest published policy version", "trainer"),
    MetricSpec(
        "forklight.trainer.window", G, "{token}", "Length window of responses opened in the step", "trainer"
    ),
)
