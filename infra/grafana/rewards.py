"""Dashboard: is every sample judged, in time, and can the verdicts be trusted?"""

from __future__ import annotations

from infra.grafana.expressions import level, quantile, rate, recorded, total
from infra.grafana.panels import Dashboard, Panel, Row, Unit

W = "forklight.reward."
B = "forklight.buffer."

_VERDICTS = Row(
    "Verdicts",
    (
        Panel("Verdicts a second", (rate(W + "verdicts", "kind"),), stacked=True),
        Panel("By status", (rate(W + "verdicts", "status"),), stacked=True),
        Panel(
            "Without a score",
            (recorded("forklight:reward:masked_share10m", "share of ten minutes"),),
            Unit.SHARE,
            "ForklightRewardMasked",
        ),
        Panel(
            "Reward of scored samples",
            (quantile(B + "reward", 0.5, "purpose"), quantile(B + "reward", 0.9, "purpose")),
        ),
    ),
)
_LATENCY = Row(
    "Latency and lines",
    (
        Panel(
            "Time to score",
            (quantile(W + "score_duration", 0.5, "kind"), quantile(W + "score_duration", 0.99, "kind")),
            Unit.SECONDS,
        ),
        Panel("Being scored", (level(W + "running", of="sum"),)),
        Panel("Lines", (level(W + "lane", "class", "state", of="sum"),)),
        Panel(
            "Age of the scoring queue",
            (level(B + "queue.age", where='queue="scoring"', legend="oldest"),),
            Unit.SECONDS,
            "ForklightScoringQueueOld",
        ),
    ),
)
_RETRIES = Row(
    "Second tries",
    (
        Panel("Repeated without a score", (rate(W + "retries", "status"),)),
        Panel("Left to the queue", (rate(W + "dropped", "reason"),)),
        Panel("Put back: line full", (rate(W + "handed_back", "class"),)),
        Panel("From a known outcome", (rate(W + "reused", "kind"),)),
    ),
)
_WORKERS = Row(
    "Verifier and sandbox",
    (
        Panel("Answers verified", (rate(W + "math_calls", "status", "path"),)),
        Panel("Math workers killed", (total(W + "math_kills"),)),
        Panel("Programs", (rate(W + "sandbox_jobs", "class", "purpose"),)),
    ),
)
_JUDGE = Row(
    "Judge",
    (
        Panel(
            "Ready, level of measures",
            (level(W + "judge.ready", legend="ready"), level(W + "judge.level", legend="level")),
        ),
        Panel(
            "Judged",
            (
                rate(W + "judge.calls", "outcome"),
                rate(W + "judge.watched", "matched", legend="watched, rule known:"),
            ),
        ),
        Panel("Alarms that ring", (level(W + "judge.alarm", "monitor"),), alert="ForklightJudgeAlarm"),
        Panel("Abstentions", (level(W + "judge.abstain_share"),), Unit.SHARE),
    ),
)
_BIAS = Row(
    "What the judge pays for",
    (
        Panel(
            "Length",
            (
                level(W + "judge.length_slope", legend="a doubling"),
                level(W + "judge.length_residual", legend="after correction"),
                level(W + "judge.padding_gain", legend="padding alone"),
            ),
        ),
        Panel("Evidence for length", (level(W + "judge.length_cusum"),)),
        Panel(
            "Order",
            (
                level(W + "judge.inconsistency", legend="order decided"),
                level(W + "judge.position_bias", legend="favours the first"),
            ),
        ),
    ),
)
_AUDIT = Row(
    "Audit log",
    (
        Panel(
            "Lines",
            (
                rate(W + "audit.lines", legend="a second"),
                level(W + "audit.waiting", of="sum", legend="waiting"),
            ),
        ),
        Panel("Lost", (total(W + "audit.lost"),), alert="ForklightAuditLinesLost"),
        Panel("Files closed or broken", (total(W + "audit.repairs", "outcome"),)),
    ),
)

REWARDS = Dashboard(
    name="rewards",
    title="rewards",
    description="Is every sample judged, in time, and can the verdicts be trusted?",
    rows=(_VERDICTS, _LATENCY, _RETRIES, _WORKERS, _JUDGE, _BIAS, _AUDIT),
)
