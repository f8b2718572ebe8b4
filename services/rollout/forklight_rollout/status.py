"""What the pod says of itself. Filled in step by step as the pod comes up."""

from __future__ import annotations

import time
from dataclasses import dataclass

from forklight.v1 import rollout_pb2
from forklight_rollout.engine_thread import EngineThread
from forklight_rollout.problems import Problems
from forklight_rollout.watcher import WeightsWatcher
from forklight_rollout.worker import Worker


@dataclass(slots=True, kw_only=True)
class PodStatus:
    """Everything the status door reads; `thread` and `worker` are there once the first weights are."""

    pod: str
    problems: Problems
    watcher: WeightsWatcher
    thread: EngineThread | None = None
    worker: Worker | None = None

    def read(self) -> rollout_pb2.GetRolloutStatusReply:
        reply = rollout_pb2.GetRolloutStatusReply(
            pod=self.pod, last_swap_s=self.watcher.last_swap_s, problem=self.problems.summary()
        )
        if self.thread is not None:
            reading = self.thread.reading
            reply.numeric_mode.CopyFrom(self.thread.numeric_mode)
            reply.version = reading.version
            reply.num_running = reading.num_running
            reply.num_waiting = reading.num_waiting
            reply.num_tokens = reading.num_tokens
            reply.tokens_per_s = self.thread.throughput.tokens_per_s(time.monotonic(), reading.num_tokens)
        if self.worker is not None:
            reply.num_samples = self.worker.num_submitted
            reply.draining = self.worker.is_draining
        return reply
