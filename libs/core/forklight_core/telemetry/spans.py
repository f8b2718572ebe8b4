"""One trace follows one sample. Its ids come from the sample id, so its context can be made anywhere.

Never a span per token, never prompts or tokens in attributes: the blob has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from forklight_core import ids
from forklight_core.telemetry.conventions import Rl
from forklight_core.telemetry.ids import FORCED, ForcedIds

Attribute = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Attribute]

_PROPAGATOR = TraceContextTextMapPropagator()
ROOT_SPAN = "sample"


def _tracer() -> trace.Tracer:
    return trace.get_tracer("forklight")


def _is_traced() -> bool:
    """Whether anybody would see a span: making one that nobody sees costs as much as a small call."""
    return not isinstance(_tracer(), trace.ProxyTracer)


def context_of(traceparent: str) -> Context:
    """The context a traceparent stands for; an empty one gives no parent."""
    return _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else Context()


def current_traceparent() -> str:
    """Context of the running span as W3C text; empty when nothing is traced."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


def traceparent_of(span: Span) -> str:
    """W3C text of a span; empty when nothing is traced."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def span(
    name: str,
    *,
    sample_id: str = "",
    traceparent: str = "",
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> Iterator[Span]:
    """A span around a block: under `traceparent`, else under the sample's root, else under what runs now."""
    if not _is_traced():
        yield trace.INVALID_SPAN
        return
    parent = traceparent or (ids.sample_traceparent(sample_id) if sample_id else "")
    with _tracer().start_as_current_span(
        name,
        context=context_of(parent) if parent else None,
        kind=kind,
        attributes=_with_sample(sample_id, attributes),
    ) as running:
        yield running


def emit_span(
    name: str,
    *,
    traceparent: str,
    start_s: float,
    end_s: float,
    attributes: Attributes | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> str:
    """A span known only afterwards; returns its traceparent so that others can hang below it."""
    if not _is_traced():
        return traceparent
    return _emit(name, context_of(traceparent), (start_s, end_s), attributes, kind)


def emit_linked_span(
    name: str,
    *,
    traceparent: str,
    start_s: float,
    end_s: float,
    linked: str,
    attributes: Attributes | None = None,
) -> str:
    """`emit_span` linked to a span of another trace. A span keeps 128 links, so the many point to the one."""
    target = trace.get_current_span(context_of(linked)).get_span_context()
    links = [Link(target)] if target.is_valid else []
    return _emit(name, context_of(traceparent), (start_s, end_s), attributes, SpanKind.CONSUMER, links)


def emit_root_span(
    sample_id: str, *, start_s: float, end_s: float, attributes: Attributes, failed: bool
) -> None:
    """The sample's root span, from opened to terminal, under the ids everyone else already used."""
    token = FORCED.set(ForcedIds(ids.trace_id(sample_id), ids.root_span_id(sample_id)))
    try:
        root = _tracer().start_span(
            ROOT_SPAN,
            context=Context(),
            start_time=int(start_s * 1e9),
            attributes=_with_sample(sample_id, attributes),
        )
    finally:
        FORCED.reset(token)
    if failed:
        root.set_status(Status(StatusCode.ERROR))
    root.end(int(end_s * 1e9))


def _emit(
    name: str,
    context: Context,
    times_s: tuple[float, float],
    attributes: Attributes | None,
    kind: SpanKind,
    links: Sequence[Link] = (),
) -> str:
    made = _tracer().start_span(
        name,
        context=context,
        kind=kind,
        start_time=int(times_s[0] * 1e9),
        attributes=dict(attributes or {}),
        links=links,
    )
    made.end(int(times_s[1] * 1e9))
    return traceparent_of(made)


def _with_sample(sample_id: str, attributes: Attributes | None) -> dict[str, Attribute]:
    found: dict[str, Attribute] = dict(attributes or {})
    if sample_id:
        found[Rl.SAMPLE] = sample_id
        found[Rl.GROUP] = ids.group_of(sample_id)
    return found
