"""The fleet in words and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from forklight.v1 import buffer_pb2, rollout_pb2
from forklight_console.ports import PodAnswer

MOST_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRow:
    """A rollout pod; `level` is good, warn or bad."""

    name: str
    address: str
    level: str
    state: str
    version: str = "-"
    behind: str = ""
    running: str = "-"
    waiting: str = "-"
    tokens_per_s: str = "-"
    samples: str = "-"
    last_swap: str = "-"
    mode: str = "-"
    probe: str = "-"
    swap: str = "-"
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All pods: sums, versions, rows with what is wrong on top."""

    tiles: Sequence[tuple[str, str]]
    versions: Sequence[tuple[int, int, str]]
    """Version, pods that use it, share of them in words."""
    rows: Sequence[PodRow]
    num_hidden: int


def make_fleet(answers: Sequence[PodAnswer], newest: int, *, search: str = "") -> Fleet:
    """What the pods said, beside the newest announced version."""
    replies = [answer.reply for answer in answers if answer.reply is not None]
    rows = [make_pod_row(answer, newest) for answer in answers if search.lower() in answer.name.lower()]
    order = {"bad": 0, "warn": 1, "good": 2}
    rows.sort(key=lambda row: (order[row.level], row.name))
    speeds = [reply.tokens_per_s for reply in replies]
    counts = Counter(reply.version for reply in replies)
    return Fleet(
        tiles=(
            ("pods that answer", f"{len(replies)} of {len(answers)}"),
            ("generated tokens/s", f"{sum(speeds):,.0f}"),
            ("slowest pod", f"{min(speeds):,.0f} tokens/s" if speeds else "-"),
            ("sequences running", f"{sum(reply.num_running for reply in replies):,}"),
            ("sequences waiting", f"{sum(reply.num_waiting for reply in replies):,}"),
            ("draining", str(sum(reply.draining for reply in replies))),
            ("newest version", str(newest) if newest else "-"),
        ),
        versions=[
            (version, number, f"{number / len(replies):.0%}")
            for version, number in sorted(counts.items(), reverse=True)
        ],
        rows=rows[:MOST_ROWS],
        num_hidden=max(0, len(rows) - MOST_ROWS),
    )


def make_pod_row(answer: PodAnswer, newest: int) -> PodRow:
    """One pod."""
    reply = answer.reply
    if reply is None:
        return PodRow(
            name=answer.name, address=answer.address, level="bad", state="no answer", problem=answer.problem
        )
    level, state = _state(reply)
    lag = max(0, newest - reply.version)
    waits = f"; {reply.waiting_version} waits" if reply.HasField("waiting_version") else ""
    return PodRow(
        name=answer.name,
        address=answer.address,
        level=level,
        state=state,
        version=str(reply.version),
        behind=(f"{lag} behind" if lag else "") + waits,
        running=f"{reply.num_running:,}",
        waiting=f"{reply.num_waiting:,}",
        tokens_per_s=f"{reply.tokens_per_s:,.0f}",
        samples=f"{reply.num_samples:,}",
        last_swap=f"{reply.last_swap_s:.2f} s",
        mode=_mode(reply),
        probe=_probe(reply),
        swap=" / ".join(part for part in (reply.swap_policy, reply.swap_cache) if part) or "-",
        problem=reply.out_of_service or reply.problem,
    )


def _state(reply: rollout_pb2.GetRolloutStatusReply) -> tuple[str, str]:
    if reply.out_of_service:
        return "bad", "out of service"
    if reply.problem:
        return "warn", "problem"
    return ("warn", "draining") if reply.draining else ("good", "serving")


def _mode(reply: rollout_pb2.GetRolloutStatusReply) -> str:
    if not reply.HasField("numeric_mode"):
        return "-"
    return "parity" if reply.numeric_mode.is_parity else "tolerance"


def _probe(reply: rollout_pb2.GetRolloutStatusReply) -> str:
    if not reply.HasField("probe"):
        return "-"
    return rollout_pb2.ProbeOutcome.Name(reply.probe.outcome).removeprefix("PROBE_OUTCOME_").lower()


def queue_rows(status: buffer_pb2.GetStatusReply) -> list[tuple[str, int, int, str]]:
    """Leases by queue."""
    return [
        (each.name, each.num_waiting, each.num_leased, f"{each.oldest_age_s:.0f} s") for each in status.queues
    ]


def holder_rows(status: buffer_pb2.GetStatusReply) -> list[tuple[str, list[int]]]:
    """Leases by holder: how many of each queue, in the order of the queues; who holds most comes first."""
    held: dict[str, list[int]] = {}
    for place, queue in enumerate(status.queues):
        for holder in queue.holders:
            held.setdefault(holder.name, [0] * len(status.queues))[place] = holder.num_leased
    return sorted(held.items(), key=lambda row: (-sum(row[1]), row[0]))
