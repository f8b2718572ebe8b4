"""Tables and JSON of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.scale.observations import Window
from tests.scale.scenario import RPCS, Ending, Faults, Stage

MOST_PLACES = 12
RPC_LIMIT_S = 1.0
LAG_LIMIT_S = 0.5


def window_figures(window: Window) -> dict[str, float]:
    """The figures of a stretch of time; durations in milliseconds, CPU in cores."""
    figures: dict[str, float] = {
        "seconds": window.seconds,
        "samples_per_s": window.rate("samples.accepted"),
        "trained_per_s": window.rate("trained"),
        "tokens_per_s": window.rate("drawn"),
        "rpcs_per_s": sum(window.rate(f"{name}.calls") for name in RPCS),
        "segments_per_s": window.rate("SaveSegment.calls"),
    }
    for percent in (50, 99):
        figures[f"rpc_p{percent}_ms"] = 1e3 * window.percentile_of(RPCS, percent)
        for name in (
            "queue_wait",
            "scoring_wait",
            "heartbeat",
            "buffer_lag",
            "host_lag",
            "redis_info",
            *RPCS,
        ):
            figures[f"{name}_p{percent}_ms"] = 1e3 * window.percentile(name, percent)
        for name in ("LeaseBatch", "CommitSteps", "SubmitVerdicts"):
            figures[f"{name}_p{percent}_ms"] = 1e3 * window.percentile(name, percent)
        figures[f"sample_age_p{percent}_s"] = window.percentile("sample_age", percent)
        figures[f"staleness_p{percent}"] = window.percentile("staleness", percent)
    figures["buffer_lag_max_ms"] = 1e3 * window.percentile("buffer_lag", 100)
    return {name: round(value, 3) for name, value in (figures | window.numbers).items()}


def breaks(stage: Stage) -> list[str]:
    """What of the criterion is not met in the quiet look."""
    quiet = stage.quiet
    found = []
    if quiet.percentile_of(RPCS, 99) > RPC_LIMIT_S:
        found.append(f"RPC p99 {quiet.percentile_of(RPCS, 99):.1f} s")
    if stage.num_without_work:
        found.append(f"{stage.num_without_work} new pods found no work")
    if stage.lost_by_healthy:
        found.append(f"{stage.lost_by_healthy} leases of healthy pods expired")
    if quiet.percentile("buffer_lag", 99) > LAG_LIMIT_S:
        found.append(f"the buffer's loop is {quiet.percentile('buffer_lag', 99):.1f} s late (p99)")
    return found


def bottleneck(stage: Stage, num_cores: int) -> str:
    """Who has no CPU left: the buffer's one thread, Redis' one thread, or the machine."""
    numbers = stage.quiet.numbers
    used = {name: numbers.get(f"{name}_cpu", 0.0) for name in ("buffer", "redis", "hands", "hosts")}
    if used["buffer"] > 0.85:
        return f"the buffer's one thread ({used['buffer']:.2f} of a core)"
    if used["redis"] > 0.85:
        return f"Redis' one thread ({used['redis']:.2f} of a core)"
    shares = ", ".join(f"{name} {cores:.2f}" for name, cores in used.items())
    return f"the {num_cores} cores of this machine, which also carry the pods ({shares} cores)"


def stage_row(stage: Stage) -> list[str]:
    """A line of the table of quiet looks."""
    quiet = stage.quiet
    figures = window_figures(quiet)
    return [
        f"{stage.num_pods}",
        f"{figures['samples_per_s']:.1f}",
        f"{figures['rpcs_per_s']:.0f}",
        f"{figures['queue_wait_p50_ms']:.0f}/{figures['queue_wait_p99_ms']:.0f}",
        f"{figures['sample_age_p50_s']:.1f}/{figures['sample_age_p99_s']:.1f}",
        f"{figures['rpc_p50_ms']:.0f}/{figures['rpc_p99_ms']:.0f}",
        f"{figures['heartbeat_p99_ms']:.0f}",
        f"{figures['buffer_cpu']:.2f}",
        f"{figures['buffer_mib']:.0f}",
        f"{figures['buffer_lag_p99_ms']:.0f}/{figures['buffer_lag_max_ms']:.0f}",
        f"{figures['redis_cpu']:.2f}",
        f"{figures['redis_mib']:.1f}",
        f"{figures['redis_ops']:.0f}",
        f"{figures['redis_connections']:.0f}+{figures['buffer_connections']:.0f}",
        f"{figures['hosts_cpu']:.2f}",
        f"{figures['host_lag_p99_ms']:.0f}",
        f"{stage.lost_by_healthy}",
        f"{stage.join_s:.1f}",
        f"{stage.buffer_away_s:.1f}",
        f"{figures['load']:.1f}",
    ]


STAGE_HEAD = (
    "pods", "samples/s", "RPC/s", "wait ms", "age s", "RPC ms", "beat ms", "buf CPU", "buf MiB", "buf lag ms",
    "red CPU", "red MiB", "red op/s", "conns", "pod CPU", "pod lag", "lost", "join s", "away s", "load",
)  # fmt: skip
FAULT_HEAD = (
    "pods", "killed", "stopped", "stalled", "slow", "drained", "leases", "taken over s", "not taken",
    "drain s", "redelivered", "tokens resumed", "lost by healthy",
)  # fmt: skip


def fault_row(stage: Stage, faults: Faults) -> list[str]:
    """A line of the table of faults."""
    numbers = (
        stage.num_pods, faults.num_killed, faults.num_frozen, faults.num_stalled, faults.num_slow,
        faults.num_drained, faults.num_leases, f"{faults.takeover_s:.1f}", faults.num_not_taken,
        f"{faults.drain_s:.1f}",
        faults.num_redelivered, faults.tokens_resumed, faults.lost_by_healthy,
    )  # fmt: skip
    return [str(number) for number in numbers]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def profile(window: Window) -> list[tuple[str, float]]:
    """Where the buffer's thread was, as shares of the looks."""
    total = sum(window.places.values()) or 1
    return [(name, count / total) for name, count in window.places.most_common(MOST_PLACES)]


def to_json(stages: Sequence[Stage], ending: Ending | None) -> dict[str, Any]:
    """Everything, as plain data."""
    said: dict[str, Any] = {"stages": [_stage(stage) for stage in stages]}
    if ending is not None:
        said["ending"] = {
            "clean": ending.is_clean,
            "violations": [asdict(violation) for violation in ending.audit.violations],
            "num_samples": ending.audit.num_samples,
            "num_open": ending.audit.num_open,
            "terminal": dict(ending.audit.terminal),
            "trained": ending.num_trained,
            "trained_twice": ending.num_trained_twice,
            "tokens_drawn": ending.tokens_drawn,
            "tokens_accepted": ending.tokens_accepted,
            "tokens_saved": ending.tokens_saved,
            "tokens_wasted": ending.tokens_wasted,
            "num_not_drained": ending.num_not_drained,
            "failures": dict(ending.failures),
        }
    return said


def _stage(stage: Stage) -> dict[str, Any]:
    commands = sorted(stage.quiet.commands.items(), key=lambda item: -item[1])[:MOST_PLACES]
    said: dict[str, Any] = {
        "pods": stage.num_pods,
        "join_s": round(stage.join_s, 2),
        "num_without_work": stage.num_without_work,
        "buffer_away_s": round(stage.buffer_away_s, 2),
        "lost_by_healthy": stage.lost_by_healthy,
        "breaks": breaks(stage),
        "quiet": window_figures(stage.quiet),
        "buffer_profile": profile(stage.quiet),
        "redis_commands_cores": {name: round(cores, 4) for name, cores in commands},
        "failures": {name: count for name, count in stage.quiet.counts.items() if name.endswith("Error")},
    }
    if stage.faults is not None:
        names = [name for name in Faults.__dataclass_fields__ if name != "after"]
        said["faults"] = {name: getattr(stage.faults, name) for name in names}
        said["after_faults"] = window_figures(stage.faults.after)
    return said
