"""This service's metrics, by the names of the registry."""

from __future__ import annotations

from forklight_core.telemetry import counter, gauge, histogram
from forklight_rollout.generation.engine_thread import EngineReading
from forklight_rollout.generation.groups import FinishedSample

TOKENS = "forklight.rollout.tokens"
SAMPLES = "forklight.rollout.samples"
GROUPS_DROPPED = "forklight.rollout.groups_dropped"
GENERATE_DURATION = "forklight.rollout.generate_duration"
RESPONSE_TOKENS = "forklight.rollout.response_tokens"
RUNNING = "forklight.rollout.running"
WAITING = "forklight.rollout.waiting"
UNSUBMITTED = "forklight.rollout.unsubmitted"
VERSION = "forklight.rollout.version"
SWAP_DURATION = "forklight.rollout.swap_duration"
STAGE_DURATION = "forklight.rollout.stage_duration"
WEIGHTS_REFUSED = "forklight.rollout.weights_refused"
SAVED_TOKENS = "forklight.rollout.saved_tokens"
CALLING = "forklight.rollout.calling"
TOOL_CALLS = "forklight.rollout.tool_calls"
TOOL_CALL_DURATION = "forklight.rollout.tool_call_duration"
TOOL_RETRIES = "forklight.rollout.tool_retries"
ENGINE_OVERHEAD = "forklight.rollout.engine_overhead"
BUSY_SHARE = "forklight.rollout.busy_share"
PROBE_AGREES = "forklight.rollout.probe_agrees"
PROBE_DIFFERENCE = "forklight.rollout.probe_difference"


def count_sample(sample: FinishedSample, outcome: str) -> None:
    """A sample left this pod (accepted, duplicate, dropped) or was given up (cancelled, fenced, failed)."""
    reason = sample.reason.value
    counter(SAMPLES).add(1, {"outcome": outcome, "finish_reason": reason})
    histogram(RESPONSE_TOKENS).record(len(sample.response.ids), {"finish_reason": reason})
    histogram(GENERATE_DURATION).record(max(0.0, sample.finished_at - sample.started_at))


def count_dropped_group(reason: str) -> None:
    counter(GROUPS_DROPPED).add(1, {"reason": reason})


def count_saved_tokens(number: int) -> None:
    counter(SAVED_TOKENS).add(number)


def count_tool_call(tool: str, outcome: str, seconds: float) -> None:
    """A call that was seen through, or given up (unanswered, unwanted)."""
    counter(TOOL_CALLS).add(1, {"tool": tool, "outcome": outcome})
    histogram(TOOL_CALL_DURATION).record(seconds, {"tool": tool})


def count_tool_retry() -> None:
    """A tool was away or busy, and is asked again."""
    counter(TOOL_RETRIES).add(1)


def record_reading(now: EngineReading, before: EngineReading, num_unsubmitted: int) -> None:
    """How the engine stands and what it did since `before`."""
    counter(TOKENS).add(now.num_tokens - before.num_tokens)
    gauge(RUNNING).set(now.num_running)
    gauge(CALLING).set(now.num_calling)
    gauge(WAITING).set(now.num_waiting)
    gauge(UNSUBMITTED).set(num_unsubmitted)
    gauge(VERSION).set(now.version)
    step_s = now.step_s - before.step_s
    if step_s > 0:
        gauge(ENGINE_OVERHEAD).set(1.0 - (now.model_s - before.model_s) / step_s)


def record_busy(share: float) -> None:
    """Of the time since the last report, what the model computed in."""
    gauge(BUSY_SHARE).set(min(1.0, max(0.0, share)))


def record_probe(*, agrees: bool, difference: float) -> None:
    """What the probe said of the weights in use."""
    gauge(PROBE_AGREES).set(int(agrees))
    gauge(PROBE_DIFFERENCE).set(difference)


def record_swap(*, stage_s: float, swap_s: float) -> None:
    histogram(STAGE_DURATION).record(stage_s)
    histogram(SWAP_DURATION).record(swap_s)


def count_refused_weights() -> None:
    counter(WEIGHTS_REFUSED).add(1)
