"""Arrays survive the wire; other schemas, other runs and torn messages are refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forklight.v1 import types_pb2
from forklight_core import ids
from forklight_core.errors import DataLossError, InvalidInputError, all_errors
from forklight_core.wire import (
    SCHEMA_VERSION,
    RoutingArrays,
    Span,
    TrajectoryArrays,
    check_envelope,
    pack_payload,
    parse,
    unpack_payload,
)


def routing(num_tokens: int) -> RoutingArrays:
    """Of a prompt of 7 and a response of so many tokens, in 3 layers with 2 experts each."""
    random = np.random.default_rng(num_tokens)
    shape = (7 + num_tokens - 1, 3, 2)
    return RoutingArrays(
        experts=random.integers(0, 256, shape, dtype=np.uint8),
        weights=random.standard_normal(shape).astype(np.float32),
    )


def arrays(num_tokens: int, routing: RoutingArrays | None = None) -> TrajectoryArrays:
    random = np.random.default_rng(num_tokens)
    return TrajectoryArrays(
        sample_id="run-1/g00000001/s002",
        prompt_ids=random.integers(0, 200_064, 7, dtype=np.int32),
        response_ids=random.integers(0, 200_064, num_tokens, dtype=np.int32),
        logprobs=random.standard_normal(num_tokens).astype(np.float32),
        raw_logprobs=random.standard_normal(num_tokens).astype(np.float32),
        text="answer \u221a2",
        contract="c1",
        routing=routing,
    )


@given(st.integers(0, 300))
def test_payload_comes_back_bit_for_bit(num_tokens: int) -> None:
    sent = arrays(num_tokens)
    back = unpack_payload(pack_payload(sent))
    assert (back.sample_id, back.text, back.contract) == (sent.sample_id, sent.text, sent.contract)
    for name in ("prompt_ids", "response_ids", "logprobs", "raw_logprobs"):
        assert np.array_equal(getattr(back, name), getattr(sent, name))


@given(st.integers(1, 60))
def test_recorded_routing_comes_back_bit_for_bit(num_tokens: int) -> None:
    sent = routing(num_tokens)
    back = unpack_payload(pack_payload(arrays(num_tokens, sent))).routing
    assert back is not None
    assert np.array_equal(back.experts, sent.experts)
    assert back.weights.tobytes() == sent.weights.tobytes()


def test_payload_without_routing_is_no_byte_larger() -> None:
    payload = types_pb2.TrajectoryPayload.FromString(pack_payload(arrays(5)))
    fields = {field.name for field, _ in payload.ListFields()}
    assert not [name for name in fields if name.startswith("routing")]
    assert unpack_payload(payload.SerializeToString()).routing is None


@pytest.mark.parametrize(
    "changes",
    [
        {"routing_experts": b"\0" * 65},
        {"routing_weights": b""},
        {"routing_layers": 4},
        {"routing_layers": 0},
        {"response_ids": b"\0" * 16, "logprobs": b"\0" * 16, "raw_logprobs": b"\0" * 16},
    ],
)
def test_routing_that_does_not_fit_the_tokens_is_refused(changes: dict[str, int | bytes]) -> None:
    payload = types_pb2.TrajectoryPayload.FromString(pack_payload(arrays(5, routing(5))))
    for name, value in changes.items():
        setattr(payload, name, value)
    with pytest.raises(DataLossError, match=r"bytes of experts.*tokens, layers, experts a token"):
        unpack_payload(payload.SerializeToString())


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_a_segment_comes_back_with_its_place_marks_and_versions(
    start: int, num_tokens: int, routed: bool
) -> None:
    sent = segment(start, num_tokens, routed=routed)
    back = unpack_payload(pack_payload(sent))
    assert (back.start, back.end, back.spans) == (start, start + num_tokens, sent.spans)
    assert back.drawn is not None and sent.drawn is not None
    assert back.drawn.tobytes() == sent.drawn.tobytes()
    assert back.num_fed == num_tokens
    if routed:
        assert back.routing is not None and len(back.routing.experts) == num_tokens


def segment(start: int, num_tokens: int, *, routed: bool = False) -> TrajectoryArrays:
    """A stretch of a response, of two versions when it has two tokens, every third token put in."""
    whole, choices = arrays(num_tokens), routing(num_tokens + 1)
    fed = RoutingArrays(experts=choices.experts[7:], weights=choices.weights[7:])
    spans = (Span(start=start, version=4), Span(start=start + 1, version=6))
    return replace(
        whole,
        text="",
        start=start,
        drawn=(np.arange(num_tokens) % 3 != 2).astype(np.uint8),
        spans=spans[: min(2, num_tokens)],
        routing=fed if routed else None,
    )


def test_a_whole_response_takes_no_byte_for_what_only_segments_have() -> None:
    payload = types_pb2.TrajectoryPayload.FromString(pack_payload(arrays(5)))
    assert not {"start", "drawn", "version_spans"} & {field.name for field, _ in payload.ListFields()}
    back = unpack_payload(payload.SerializeToString())
    assert (back.start, back.drawn, back.spans) == (0, None, ())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"drawn": b"\1\1"}, "of 2 of its 5 tokens"),
        ({"drawn": b"\1\0\2\1\1"}, "drawn mark of 2"),
        ({"start": 8}, "ascend from 8"),
        ({"start": 0}, "bytes of experts"),
        ({"version_spans": [(9, 4), (14, 5)]}, "lie before 14"),
        ({"version_spans": [(9, 4), (11, 5), (10, 6)]}, "must ascend"),
        ({"version_spans": [(9, 4), (9, 5)]}, "must ascend"),
        ({"version_spans": [(10, 4)]}, "ascend from 9"),
    ],
)
def test_a_segment_that_contradicts_itself_is_refused(
    changes: dict[str, bytes | int | list[tuple[int, int]]], problem: str
) -> None:
    payload = types_pb2.TrajectoryPayload.FromString(pack_payload(segment(9, 5, routed=True)))
    for name, value in changes.items():
        if isinstance(value, list):
            del payload.version_spans[:]
            payload.version_spans.extend(types_pb2.VersionSpan(start=at, version=to) for at, to in value)
        else:
            setattr(payload, name, value)
    with pytest.raises(DataLossError, match=problem):
        unpack_payload(payload.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        {"logprobs": np.zeros(4, np.float32)},
        {"drawn": np.ones(6, np.uint8)},
        {"spans": (Span(start=1, version=0),)},
        {"routing": routing(4)},
    ],
)
def test_arrays_that_do_not_fit_are_not_even_packed(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match="payload of run-1/g00000001/s002"):
        pack_payload(replace(arrays(5), **change))  # type: ignore[arg-type]


def test_payload_with_uneven_arrays_is_refused() -> None:
    payload = types_pb2.TrajectoryPayload.FromString(pack_payload(arrays(5)))
    payload.logprobs = payload.logprobs[:-4]
    with pytest.raises(DataLossError, match="4 log-probs"):
        unpack_payload(payload.SerializeToString())


def test_torn_message_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="Trajectory"):
        parse(types_pb2.Trajectory, b"\xff\xff\xff")


def test_other_schema_or_run_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="schema version 9"):
        check_envelope(types_pb2.Envelope(schema_version=9, run_id="run-1"), "run-1")
    with pytest.raises(InvalidInputError, match="'run-2'"):
        check_envelope(types_pb2.Envelope(schema_version=SCHEMA_VERSION, run_id="run-2"), "run-1")
    check_envelope(types_pb2.Envelope(schema_version=SCHEMA_VERSION, run_id="run-1"), "run-1")


def test_ids_are_functions_of_position() -> None:
    group = ids.training_group_id("run-1", 12)
    sample = ids.sample_id(group, 3)
    assert (ids.group_of(sample), ids.sample_index(sample)) == (group, 3)
    assert ids.trace_id(sample) == ids.trace_id(sample) != ids.trace_id(ids.sample_id(group, 4))
    assert ids.sample_traceparent(sample).startswith(f"00-{ids.trace_id(sample):032x}-")
    with pytest.raises(InvalidInputError, match="not a sample id"):
        ids.group_of("nonsense")
    with pytest.raises(InvalidInputError, match="run id"):
        ids.check_run_id("Bad Name")


def test_every_error_has_a_grpc_code() -> None:
    import grpc

    for name, error in all_errors().items():
        assert grpc.StatusCode[error.code], name
