"""Dashboard: is everybody there, does everything flow, is nothing lost?"""

from __future__ import annotations

from infra.grafana.expressions import level, quantile, rate, recorded, total
from infra.grafana.panels import Dashboard, Panel, Row, Unit

B = "forklight.buffer."
C = "forklight.console."

_PRESENCE = Row(
    "Presence",
    (
        Panel("Processes", (level("forklight.process.started", "service.name", of="count"),), stacked=True),
        Panel("Reconciliations of Redis and ledger", (total(B + "reconciliations"),)),
        Panel("Calls a second", (rate("forklight.rpc.calls", "service.name"),)),
    ),
)
_LOSS = Row(
    "Must stay at zero",
    (
        Panel("Conflicts", (total(B + "conflicts"),), alert="ForklightConflicts"),
        Panel("Dead letters", (total(B + "dead_letters", "queue"),)),
        Panel("Stuck samples", (level(B + "stuck"),), alert="ForklightSamplesStuck"),
        Panel(
            "Lost to machinery",
            (recorded("forklight:buffer:infra_failed_share15m", "share of a quarter of an hour"),),
            Unit.SHARE,
            "ForklightInfraFailures",
        ),
    ),
)
_FLOW = Row(
    "Flow",
    (
        Panel("Samples that end, a second", (rate(B + "samples", "state"),), stacked=True),
        Panel("Why", (rate(B + "samples", "state", "reason"),)),
        Panel("Groups opened a second", (rate(B + "groups.opened", "purpose"),)),
        Panel(
            "Groups that teach nothing",
            (recorded("forklight:buffer:filtered_share30m", "share of half an hour"),),
            Unit.SHARE,
            "ForklightNoSignal",
        ),
    ),
)
_QUEUES = Row(
    "Queues",
    (
        Panel("Depth", (level(B + "queue.depth", "queue", "held"),)),
        Panel("Age of the oldest", (level(B + "queue.age", "queue"),), Unit.SECONDS, "ForklightTaskQueueOld"),
        Panel("Groups", (level(B + "groups", "status"),), stacked=True),
        Panel(
            "Time from open to end",
            (quantile(B + "sample.age", 0.5, "state"), quantile(B + "sample.age", 0.99, "state")),
            Unit.SECONDS,
        ),
    ),
)
_CREDIT = Row(
    "Credit and sizes",
    (
        Panel("Tokens left to open", (level(B + "credit.tokens"),)),
        Panel("Blob bytes left to open", (level(B + "credit.bytes"),), Unit.BYTES),
        Panel(
            "Tokens of a response",
            (quantile(B + "response.tokens", 0.5), quantile(B + "response.tokens", 0.99)),
        ),
    ),
)
_CURRICULUM = Row(
    "Curriculum",
    (
        Panel("Groups by domain", (rate(B + "curriculum.groups", "domain"),), stacked=True),
        Panel("Share of the draws", (level(B + "curriculum.share", "domain"),), Unit.SHARE),
        Panel("Level", (level(B + "curriculum.level", "task"),)),
    ),
)
_CALLS = Row(
    "Calls",
    (
        Panel("By status", (rate("forklight.rpc.calls", "rpc.status"),), stacked=True),
        Panel(
            "Errors by method",
            (rate("forklight.rpc.calls", "rpc.method", "rpc.status", where='rpc_status!="OK"'),),
        ),
        Panel(
            "Slowest methods, p99", (quantile("forklight.rpc.duration", 0.99, "rpc.method"),), Unit.SECONDS
        ),
        Panel(
            "Console",
            (rate(C + "requests", "path", "status"), quantile(C + "request_duration", 0.99)),
        ),
    ),
)

INFRASTRUCTURE = Dashboard(
    name="infrastructure",
    title="infrastructure",
    description="Is everybody there, does everything flow, is nothing lost?",
    rows=(_PRESENCE, _LOSS, _FLOW, _QUEUES, _CREDIT, _CURRICULUM, _CALLS),
)
