"""Which charts the overview has, and what is drawn in each. The figures are those of the step records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Source(StrEnum):
    """Where the points of a chart come from; each is one address."""

    STEPS = "steps"
    LIVE = "live"
    ROUNDS = "rounds"


class Shape(StrEnum):
    """How the lines of a chart lie."""

    LINES = "lines"
    STACK = "stack"
    BAND = "band"
    """The second and third line are the edges of a band around the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of a chart. A field that ends with `*` is every field that begins so."""

    field: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A figure of the page."""

    title: str
    help: str
    lines: tuple[Line, ...]
    unit: str = ""
    source: Source = Source.STEPS
    shape: Shape = Shape.LINES
    marks: tuple[tuple[float, str], ...] = field(default=())
    """Levels with a name, such as a gate."""

    def as_json(self) -> str:
        """What the script is told."""
        return json.dumps(asdict(self))


def lines(**labels: str) -> tuple[Line, ...]:
    """Figures by their labels."""
    return tuple(Line(field=name, label=label) for name, label in labels.items())


STAGES = ("lease", "fetch", "train", "checkpoint", "commit", "publish")
CHARTS = (
    Chart(
        title="Reward",
        help="mean and spread over the samples of a step",
        lines=lines(reward_mean="mean", reward_std="std"),
    ),
    Chart(
        title="Pass rate, held out",
        help="by policy version, with the interval of the lowest k; at each round's end",
        lines=(Line(field="pass_at_*", label="pass@"),),
        source=Source.ROUNDS,
    ),
    Chart(
        title="Response length",
        help="tokens drawn by the policy; the window is what a response may have",
        unit="tokens",
        lines=lines(length_p99="p99", length_p50="p50", length_mean="mean", window="window"),
    ),
    Chart(title="Entropy", help="mean per token", unit="nats", lines=lines(entropy="entropy")),
    Chart(
        title="Importance ratio",
        help="new over old probability: mean and highest of a step",
        lines=lines(ratio_max="highest", ratio_mean="mean"),
    ),
    Chart(
        title="Clip and mask share",
        help="of the tokens",
        lines=lines(clip_share_high="clipped high", clip_share_low="clipped low", masked_share="masked"),
    ),
    Chart(
        title="Probability correlation",
        help="of rollout's and the trainer's probability of the same tokens",
        lines=lines(correlation="correlation"),
    ),
    Chart(
        title="Staleness",
        help="versions between sampling and training",
        unit="versions",
        lines=lines(staleness_max="highest", staleness_mean="mean"),
    ),
    Chart(title="Loss", help="of the step", lines=lines(loss="loss")),
    Chart(
        title="Gradient norm", help="before clipping", lines=lines(grad_norm="norm", grad_clip="clipped at")
    ),
    Chart(
        title="Step time by stage",
        help="seconds of a step, one stage on the other",
        unit="s",
        lines=tuple(Line(field=f"seconds.{stage}", label=stage) for stage in STAGES),
        shape=Shape.STACK,
    ),
    Chart(
        title="Trained tokens/s",
        help="response tokens over the seconds of the train stage",
        unit="tokens/s",
        lines=lines(tokens_per_s="tokens/s"),
    ),
    Chart(
        title="Generated tokens/s by pod",
        help="what each pod says of its last 10 s, since this console started",
        unit="tokens/s",
        lines=(Line(field="pod.*", label=""),),
        source=Source.LIVE,
    ),
    Chart(
        title="Queue depths",
        help="entries that wait or are leased, since this console started",
        lines=(Line(field="queue.*", label=""),),
        source=Source.LIVE,
    ),
    Chart(
        title="Age of the oldest entry",
        help="by queue, since this console started",
        unit="s",
        lines=(Line(field="age.*", label=""),),
        source=Source.LIVE,
    ),
)


def fields_of(source: Source) -> tuple[str, ...]:
    """Every field that the charts of a source need."""
    return tuple(
        dict.fromkeys(line.field for chart in CHARTS if chart.source is source for line in chart.lines)
    )
