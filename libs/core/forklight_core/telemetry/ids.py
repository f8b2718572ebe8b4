"""Span ids: random, except where a caller forces one. A sample's root span has an id everyone can compute."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator


@dataclass(frozen=True, slots=True)
class ForcedIds:
    """The ids the next span must have."""

    trace_id: int
    span_id: int


FORCED: ContextVar[ForcedIds | None] = ContextVar("forced_span_ids", default=None)


class SampleIdGenerator(RandomIdGenerator):
    """Random ids unless FORCED is set."""

    def generate_span_id(self) -> int:
        forced = FORCED.get()
        return forced.span_id if forced else super().generate_span_id()

    def generate_trace_id(self) -> int:
        forced = FORCED.get()
        return forced.trace_id if forced else super().generate_trace_id()
