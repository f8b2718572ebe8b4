"""What has no record of its own over time: queues, pods, held-out rounds. Looked at, and kept in memory.

It starts with the console and is bounded: when it is full, the older half goes. Prometheus keeps more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from google.protobuf.json_format import ParseDict, ParseError

from forklight.v1 import buffer_pb2
from forklight_console.ports import PodAnswer, PodSource, RunView
from forklight_console.steps.series import Series, SeriesQuery, make_series
from forklight_console.steps.table import StepTable
from forklight_core.errors import ForklightError

MOST_ROWS = 8192
MOST_PODS_APART = 24
"""With more pods than this, the fleet is drawn as highest, mean and lowest: one sick pod hides in a mean."""
log = logging.getLogger(__name__)


class Sampler:
    """Looks, remembers, answers charts."""

    def __init__(self, view: RunView, pods: PodSource, *, clock: Callable[[], float] = time.time) -> None:
        self._view = view
        self._pods = pods
        self._clock = clock
        self._live = StepTable()
        self._rounds = StepTable()
        self._lock = threading.Lock()
        self.answers: Sequence[PodAnswer] = ()
        """Of the last look."""
        self.looked_at = 0.0

    def recall_rounds(self, path: Path) -> None:
        """Rounds that a supervisor wrote down: the buffer's status has only the last ones."""
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                result = ParseDict(
                    {**json.loads(line), "complete": True}, buffer_pb2.EvaluationResult(), True
                )
            except (ValueError, TypeError, ParseError):
                continue  # torn, or not ours
            self._remember(result)

    async def run(self, every_s: float) -> None:
        """Look until cancelled. Step records are read first: no page has to wait for all of them."""
        await self._view.steps(after=0, limit=1)
        while True:
            started = time.monotonic()
            await self.look()
            await asyncio.sleep(max(0.1, every_s - (time.monotonic() - started)))

    async def look(self) -> None:
        """One look at everything; what does not answer leaves a gap."""
        self.answers = await self._pods.ask()
        values = pod_values(self.answers)
        try:
            status = await self._view.status()
        except ForklightError as error:
            log.debug("the buffer does not answer", extra={"error": str(error)})
            status = buffer_pb2.GetStatusReply()
        values.update(queue_values(status))
        self.looked_at = self._clock()
        with self._lock:
            if values:
                self._live.put(int(self.looked_at), values)
            if len(self._live) >= MOST_ROWS:
                self._live.drop_oldest(MOST_ROWS // 2)
            for result in status.evaluations:
                self._remember(result)

    def live(self, query: SeriesQuery) -> Series:
        """Queues and pods over unix seconds; `x*` asks for every field that begins with x."""
        return self._answer(self._live, query)

    def rounds(self, query: SeriesQuery) -> Series:
        """Complete held-out rounds over policy versions."""
        return self._answer(self._rounds, query)

    def _answer(self, table: StepTable, query: SeriesQuery) -> Series:
        with self._lock:
            return make_series(table, query)

    def _remember(self, result: buffer_pb2.EvaluationResult) -> None:
        values = round_values(result)
        known = self._rounds.row_of(result.version)
        if values and (known is None or known != values):
            self._rounds.put(result.version, values)


def pod_values(answers: Sequence[PodAnswer]) -> dict[str, float]:
    """Tokens a second by pod, or of the fleet when it is large."""
    speeds = {each.name: each.reply.tokens_per_s for each in answers if each.reply is not None}
    if not speeds:
        return {}
    if len(speeds) <= MOST_PODS_APART:
        return {f"pod.{name}": speed for name, speed in speeds.items()}
    total = sum(speeds.values())
    return {
        "pod.highest": max(speeds.values()),
        "pod.mean": total / len(speeds),
        "pod.lowest": min(speeds.values()),
    }


def queue_values(status: buffer_pb2.GetStatusReply) -> dict[str, float]:
    """Depths and ages by queue."""
    values: dict[str, float] = {}
    for queue in status.queues:
        values[f"queue.{queue.name} waiting"] = queue.num_waiting
        values[f"queue.{queue.name} leased"] = queue.num_leased
        values[f"age.{queue.name}"] = queue.oldest_age_s
    if values:
        values["queue.groups ready"] = status.num_ready_groups
    return values


def round_values(result: buffer_pb2.EvaluationResult) -> Mapping[str, float]:
    """Pass rates with their intervals, of a round that is complete."""
    if not result.complete:
        return {}
    values = {"reward": result.mean_reward}
    for each in result.pass_at:
        values[f"pass_at_{each.k}"] = each.value
        values[f"low_{each.k}"], values[f"high_{each.k}"] = each.low, each.high
    return values
