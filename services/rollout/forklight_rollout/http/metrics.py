"""Metrics of this door, by the names of the registry, and the span of a request."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.telemetry import SpanKind, counter, emit_span, gauge, histogram
from forklight_core.telemetry.conventions import GenAi
from forklight_rollout.http.generation import Generation

REQUESTS = "forklight.rollout.http_requests"
DURATION = "forklight.rollout.http_duration"
IN_FLIGHT = "forklight.rollout.http_in_flight"
FIRST_TOKEN = "forklight.rollout.http_first_token"
TOKENS = "forklight.rollout.http_tokens"
GONE = "forklight.rollout.http_gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimes:
    """Unix seconds."""

    started_at: float
    first_token_at: float | None
    ended_at: float


def count_answer(path: str, status: int, seconds: float) -> None:
    """A request was answered."""
    counter(REQUESTS).add(1, {"path": path, "status": status})
    histogram(DURATION).record(seconds, {"path": path})


def record_in_flight(number: int) -> None:
    gauge(IN_FLIGHT).set(number)


def record_generation(
    generation: Generation, times: RequestTimes, *, traceparent: str, model: str, is_gone: bool
) -> None:
    """A request that reached the engine is over; its span hangs below the client's."""
    counter(TOKENS).add(generation.num_prompt_tokens, {"kind": "prompt"})
    counter(TOKENS).add(generation.num_response_tokens, {"kind": "response"})
    if is_gone:
        counter(GONE).add(1)
    if times.first_token_at is not None:
        histogram(FIRST_TOKEN).record(max(0.0, times.first_token_at - times.started_at))
    plan = generation.plan
    emit_span(
        f"{plan.endpoint.value} {model}",
        traceparent=traceparent,
        start_s=times.started_at,
        end_s=times.ended_at,
        kind=SpanKind.SERVER,
        attributes={
            GenAi.OPERATION: plan.endpoint.value,
            GenAi.MODEL: model,
            GenAi.CHOICES: plan.num_samples,
            GenAi.MAX_TOKENS: max(prompt.end.max_new_tokens for prompt in plan.prompts),
            GenAi.TOP_P: plan.draw.top_p,
            GenAi.TOP_K: plan.draw.top_k,
            GenAi.RESPONSE_ID: plan.request_id,
            GenAi.FINISH_REASONS: tuple(generation.end_reasons),
            GenAi.INPUT_TOKENS: generation.num_prompt_tokens,
            GenAi.OUTPUT_TOKENS: generation.num_response_tokens,
            GenAi.TEMPERATURE: plan.draw.temperature,
            "forklight.rollout.client_gone": is_gone,
        },
    )
