"""What the pod says of itself. Filled in step by step as the pod comes up."""

from __future__ import annotations

import time
from dataclasses import dataclass

from forklight.v1 import rollout_pb2
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.problems import Problems
from forklight_rollout.weights.probe import ProbeOutcome, ProbeResult
from forklight_rollout.weights.watcher import WeightsWatcher
from forklight_rollout.worker import Worker

OUTCOMES = {
    ProbeOutcome.EQUAL: rollout_pb2.PROBE_OUTCOME_EQUAL,
    ProbeOutcome.WITHIN: rollout_pb2.PROBE_OUTCOME_WITHIN,
    ProbeOutcome.ABSENT: rollout_pb2.PROBE_OUTCOME_ABSENT,
    ProbeOutcome.DISAGREES: rollout_pb2.PROBE_OUTCOME_DISAGREES,
}


def probe_message(probe: ProbeResult) -> rollout_pb2.Probe:
    """A probe for the wire."""
    return rollout_pb2.Probe(
        outcome=OUTCOMES[probe.outcome],
        version=probe.version,
        reason=probe.reason,
        num_compared=probe.num_compared,
        num_off=probe.num_off,
        max_difference=probe.max_difference,
        probe_s=probe.probe_s,
    )


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
            pod=self.pod,
            last_swap_s=self.watcher.last_swap_s,
            problem=self.problems.summary(),
            out_of_service=self.problems.out_of_service(),
            swap_policy=self.watcher.rules.policy.value,
            swap_cache=self.watcher.rules.cache.value,
        )
        if self.watcher.last_probe is not None:
            reply.probe.CopyFrom(probe_message(self.watcher.last_probe))
        if self.watcher.waiting is not None:
            reply.waiting_version = self.watcher.waiting.version
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
