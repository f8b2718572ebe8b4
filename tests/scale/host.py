"""`python -m tests.scale.host SETTINGS_JSON`: a process that holds many rollout pods, each the real service
over a sleeping engine.

stdin:  {"op": "start"|"drain"|"slow"|"stall", "pods": [...]} a line
stdout: one line a second of what the pods measured, and one for each pod that ended
"""

# ruff: noqa: T201
from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forklight_rollout import app
from forklight_rollout.ports import Engine, EngineLimits
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.weights.manifest import PublishedWeights
from tests.scale.engine import Manner, SleepingEngine
from tests.scale.measured import STALLED, TALLY, MeasuredBuffer, MeasuredQueue

SAY_EVERY_S = 1.0
VOCABULARY = 103
SLOWER = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """What all pods of a host have in common; travels as JSON."""

    run_file: str
    run_folder: str
    run_id: str
    redis_url: str
    blobs_url: str
    buffer_address: str
    num_sequences: int
    tokens_per_s: float
    mean_tokens: float
    weights_poll_s: float

    def settings(self, pod: str) -> RolloutSettings:
        """Of one pod."""
        return RolloutSettings(
            run_file=Path(self.run_file),
            run_folder=Path(self.run_folder),
            run_id=self.run_id,
            listen="127.0.0.1:0",
            pod=pod,
            redis_url=self.redis_url,
            blobs_url=self.blobs_url,
            buffer_address=self.buffer_address,
            weights_poll_s=self.weights_poll_s,
        )


@dataclass(slots=True)
class Pod:
    """One that runs."""

    stop: asyncio.Event
    task: asyncio.Task[None]
    engine: SleepingEngine | None = None


@dataclass(slots=True)
class Host:
    """The pods of this process."""

    plan: HostPlan
    pods: dict[str, Pod] = field(default_factory=dict)
    num_drawn_before: int = 0
    """By engines of pods that have ended."""
    num_drawn_said: int = 0
    lag_s: float = 0.0

    def start(self, names: Iterable[str]) -> None:
        """Pods join."""
        for name in names:
            stop = asyncio.Event()
            self.pods[name] = Pod(stop, asyncio.create_task(self._run(name, stop)))

    async def _run(self, name: str, stop: asyncio.Event) -> None:
        failure = ""
        try:
            await app.run(self.plan.settings(name), stop, make_engine=self._engines(name))
        except (Exception, BaseExceptionGroup) as error:
            logging.getLogger(__name__).exception("pod failed")
            failure = repr(error)
        pod = self.pods.pop(name)
        self.num_drawn_before += pod.engine.num_drawn if pod.engine else 0
        say({"ended": name, "failure": failure})

    def _engines(self, name: str) -> Callable[[PublishedWeights], Engine]:
        def make(weights: PublishedWeights) -> Engine:
            limits = EngineLimits(
                num_sequences=self.plan.num_sequences, max_tokens=1 << 20, vocabulary_size=VOCABULARY
            )
            manner = Manner(tokens_per_s=self.plan.tokens_per_s, mean_tokens=self.plan.mean_tokens)
            engine = SleepingEngine(limits, manner, version=weights.version)
            self.pods[name].engine = engine
            return engine

        return make

    def obey(self, order: dict[str, Any]) -> None:
        """One line of stdin."""
        names = order["pods"]
        if order["op"] == "start":
            self.start(names)
        elif order["op"] == "stall":
            STALLED.update(names)
        for name in names:
            pod = self.pods.get(name)
            if pod is not None and order["op"] == "drain":
                pod.stop.set()
            elif pod is not None and pod.engine is not None and order["op"] == "slow":
                pod.engine.slow_down(SLOWER)

    async def report(self) -> None:
        """Once a second, for ever."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(SAY_EVERY_S)
            self.lag_s = max(0.0, time.perf_counter() - before - SAY_EVERY_S)
            say(self.read())

    def read(self) -> dict[str, Any]:
        """What happened since the last line."""
        running = [pod.engine for pod in self.pods.values() if pod.engine is not None]
        drawn = self.num_drawn_before + sum(engine.num_drawn for engine in running)
        said = TALLY.read() | {"drawn": drawn - self.num_drawn_said, "lag_s": round(self.lag_s, 4)}
        self.num_drawn_said = drawn
        return said | {"num_pods": len(running)}


_saying = threading.Lock()


def say(line: dict[str, Any]) -> None:
    """One line of stdout, whole."""
    with _saying:
        print(json.dumps(line, separators=(",", ":")), flush=True)


async def main(plan: HostPlan) -> None:
    """Until stdin closes and every pod has ended."""
    # The assembled service uses these two names; everything else of it is as it ships.
    app.RpcBuffer, app.RedisWorkQueue = MeasuredBuffer, MeasuredQueue  # type: ignore[misc, attr-defined]
    host, loop = Host(plan), asyncio.get_running_loop()
    reporting = asyncio.create_task(host.report())
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"ready": True})
    while line := await reader.readline():
        host.obey(json.loads(line))
    for pod in host.pods.values():
        pod.stop.set()
    await asyncio.gather(*(pod.task for pod in host.pods.values()))
    reporting.cancel()
    say(host.read())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(HostPlan(**json.loads(sys.argv[1]))))
