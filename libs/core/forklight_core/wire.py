"""Between proto messages and what lives inside a process: the only place where arrays become bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from forklight.v1 import types_pb2
from forklight_core.errors import DataLossError, InvalidInputError

SCHEMA_VERSION = 1

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutingArrays:
    """What the routers chose for F tokens that were fed to the model. L layers, K experts a token."""

    experts: UInt8Array  # [F, L, K]
    weights: Float32Array  # [F, L, K]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From token `start` of the response on, tokens come from policy `version`."""

    start: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Commands that a response gave to a shell in a folder of its own, in order."""

    commands: tuple[str, ...]
    timeout_s: float
    """That each may compute; one that takes longer changes nothing."""

    def to_wire(self) -> types_pb2.Session:
        """As a message."""
        return types_pb2.Session(commands=self.commands, timeout_s=self.timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryArrays:
    """What a blob holds: a response, or a segment of one. P prompt tokens, R response tokens."""

    sample_id: str
    prompt_ids: Int32Array  # [P]
    response_ids: Int32Array  # [R]
    logprobs: Float32Array  # [R] of the chosen token at the sampling distribution; 0 where it was put in
    raw_logprobs: Float32Array  # [R] at temperature 1 and top-p 1; 0 where it was put in
    text: str
    contract: str
    routing: RoutingArrays | None = None
    """With routing replay, of the tokens fed to get these R: from start 0 on the prompt's and all but
    the last (P + R - 1), else one a token. So the arrays of segments in a row are the whole response's."""
    start: int = 0  # index of the first of these tokens in the response
    drawn: UInt8Array | None = None  # [R] 1 where the policy drew the token, 0 where it was put in; None: all
    spans: tuple[Span, ...] = ()  # of a segment; starts count from the response's first token
    session: Session | None = None  # of a whole response that used the tool `shell`

    @property
    def end(self) -> int:
        """Index behind the last of these tokens in the response."""
        return self.start + len(self.response_ids)

    @property
    def num_fed(self) -> int:
        """Tokens fed to the model to get these, F of the routing."""
        return len(self.response_ids) + (0 if self.start else len(self.prompt_ids) - 1)


def pack_payload(arrays: TrajectoryArrays) -> bytes:
    """Serialize a trajectory's arrays; InvalidInputError when they do not fit together."""
    fault = find_fault(arrays)
    if fault:
        raise InvalidInputError(fault)
    payload = types_pb2.TrajectoryPayload(
        schema_version=SCHEMA_VERSION,
        sample_id=arrays.sample_id,
        prompt_ids=arrays.prompt_ids.astype("<i4", copy=False).tobytes(),
        response_ids=arrays.response_ids.astype("<i4", copy=False).tobytes(),
        logprobs=arrays.logprobs.astype("<f4", copy=False).tobytes(),
        raw_logprobs=arrays.raw_logprobs.astype("<f4", copy=False).tobytes(),
        text=arrays.text,
        contract=arrays.contract,
        start=arrays.start,
        drawn=b"" if arrays.drawn is None else arrays.drawn.tobytes(),
        version_spans=[
            types_pb2.VersionSpan(start=span.start, version=span.version) for span in arrays.spans
        ],
        session=None if arrays.session is None else arrays.session.to_wire(),
    )
    if arrays.routing is not None:
        _, payload.routing_layers, payload.routing_top_k = arrays.routing.experts.shape
        payload.routing_experts = arrays.routing.experts.tobytes()
        payload.routing_weights = arrays.routing.weights.astype("<f4", copy=False).tobytes()
    return payload.SerializeToString()


def unpack_payload(data: bytes) -> TrajectoryArrays:
    """Read a trajectory's arrays (views of the bytes); refuse what does not fit together."""
    payload = parse(types_pb2.TrajectoryPayload, data)
    check_schema(payload.schema_version, f"payload of {payload.sample_id}")
    arrays = TrajectoryArrays(
        sample_id=payload.sample_id,
        prompt_ids=np.frombuffer(payload.prompt_ids, dtype="<i4"),
        response_ids=np.frombuffer(payload.response_ids, dtype="<i4"),
        logprobs=np.frombuffer(payload.logprobs, dtype="<f4"),
        raw_logprobs=np.frombuffer(payload.raw_logprobs, dtype="<f4"),
        text=payload.text,
        contract=payload.contract,
        start=payload.start,
        drawn=np.frombuffer(payload.drawn, dtype=np.uint8) if payload.drawn else None,
        spans=tuple(Span(start=span.start, version=span.version) for span in payload.version_spans),
        session=read_session(payload.session) if payload.HasField("session") else None,
    )
    arrays = replace(arrays, routing=_unpack_routing(payload, arrays.num_fed))
    fault = find_fault(arrays)
    if fault:
        raise DataLossError(fault)
    return arrays


def read_session(message: types_pb2.Session) -> Session:
    """What a message says of a session."""
    return Session(commands=tuple(message.commands), timeout_s=message.timeout_s)


def find_fault(arrays: TrajectoryArrays) -> str:
    """What does not fit together in a trajectory's arrays; empty when all does."""
    who, num_tokens = f"payload of {arrays.sample_id}", len(arrays.response_ids)
    if (len(arrays.logprobs), len(arrays.raw_logprobs)) != (num_tokens, num_tokens):
        return (
            f"{who} has {num_tokens} response ids, {len(arrays.logprobs)} log-probs and "
            f"{len(arrays.raw_logprobs)} raw log-probs: they must be as many"
        )
    if arrays.drawn is not None and len(arrays.drawn) != num_tokens:
        return f"{who} says of {len(arrays.drawn)} of its {num_tokens} tokens whether they were drawn"
    if arrays.drawn is not None and num_tokens and arrays.drawn.max() > 1:
        return f"{who} has a drawn mark of {arrays.drawn.max()}: 1 is drawn, 0 is put in"
    if arrays.routing is not None and len(arrays.routing.experts) != arrays.num_fed:
        return (
            f"{who} has routing of {len(arrays.routing.experts)} fed tokens, {arrays.num_fed} gave tokens "
            f"{arrays.start} to {arrays.end}"
        )
    return _find_span_fault(arrays, who)


def _find_span_fault(arrays: TrajectoryArrays, who: str) -> str:
    """Spans, where there are any, begin with the first token, ascend, and end before the last one does."""
    starts = [span.start for span in arrays.spans]
    if not starts or (
        starts[0] == arrays.start and starts[-1] < arrays.end and starts == sorted(set(starts))
    ):
        return ""
    return (
        f"{who} has version spans that start at {starts}: they must ascend from {arrays.start} "
        f"and lie before {arrays.end}"
    )


def _unpack_routing(payload: types_pb2.TrajectoryPayload, num_fed: int) -> RoutingArrays | None:
    """The routers' choices; None when none were recorded."""
    if not (payload.routing_layers or payload.routing_experts or payload.routing_weights):
        return None
    shape = (num_fed, payload.routing_layers, payload.routing_top_k)
    num_choices = num_fed * payload.routing_layers * payload.routing_top_k
    if (len(payload.routing_experts), len(payload.routing_weights)) != (num_choices, 4 * num_choices):
        raise DataLossError(
            f"payload of {payload.sample_id} has {len(payload.routing_experts)} bytes of experts and "
            f"{len(payload.routing_weights)} of their weights: {num_choices} and {4 * num_choices} make "
            f"(tokens, layers, experts a token) = {shape}"
        )
    return RoutingArrays(
        experts=np.frombuffer(payload.routing_experts, dtype=np.uint8).reshape(shape),
        weights=np.frombuffer(payload.routing_weights, dtype="<f4").reshape(shape),
    )


def parse(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    """Bytes to a message, or a named error."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidInputError(f"{len(data)} bytes are no {kind.__name__}: {error}") from error
    return message


def check_schema(version: int, what: str) -> None:
    """Refuse messages of a schema this build does not know."""
    if version != SCHEMA_VERSION:
        raise InvalidInputError(
            f"{what} has schema version {version}, this build reads {SCHEMA_VERSION}: "
            "bring all services to the same release"
        )


def check_envelope(envelope: types_pb2.Envelope, run_id: str) -> None:
    """Refuse a message of another schema or another run."""
    check_schema(
        envelope.schema_version, f"message about {envelope.sample_id or envelope.group_id or 'nothing'}"
    )
    if envelope.run_id != run_id:
        raise InvalidInputError(f"message belongs to run {envelope.run_id!r}, this service serves {run_id!r}")
