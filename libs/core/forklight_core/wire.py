"""Between proto messages and what lives inside a process: the only place where arrays become bytes."""

from __future__ import annotations

from dataclasses import dataclass
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
class TrajectoryArrays:
    """What a trajectory's blob holds. P prompt tokens, R response tokens."""

    sample_id: str
    prompt_ids: Int32Array  # [P]
    response_ids: Int32Array  # [R]
    logprobs: Float32Array  # [R] of the chosen token at the sampling distribution
    raw_logprobs: Float32Array  # [R] at temperature 1 and top-p 1
    text: str
    contract: str
    routing: RoutingArrays | None = None  # with routing replay, of P + R - 1 tokens


def pack_payload(arrays: TrajectoryArrays) -> bytes:
    """Serialize a trajectory's arrays."""
    payload = types_pb2.TrajectoryPayload(
        schema_version=SCHEMA_VERSION,
        sample_id=arrays.sample_id,
        prompt_ids=arrays.prompt_ids.astype("<i4", copy=False).tobytes(),
        response_ids=arrays.response_ids.astype("<i4", copy=False).tobytes(),
        logprobs=arrays.logprobs.astype("<f4", copy=False).tobytes(),
        raw_logprobs=arrays.raw_logprobs.astype("<f4", copy=False).tobytes(),
        text=arrays.text,
        contract=arrays.contract,
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
        routing=_unpack_routing(payload),
    )
    lengths = {len(arrays.response_ids), len(arrays.logprobs), len(arrays.raw_logprobs)}
    if len(lengths) != 1:
        raise DataLossError(
            f"payload of {payload.sample_id} has {len(arrays.response_ids)} response ids, "
            f"{len(arrays.logprobs)} log-probs and {len(arrays.raw_logprobs)} raw log-probs: "
            "they must be as many"
        )
    return arrays


def _unpack_routing(payload: types_pb2.TrajectoryPayload) -> RoutingArrays | None:
    """The routers' choices; None when none were recorded."""
    if not (payload.routing_layers or payload.routing_experts or payload.routing_weights):
        return None
    num_fed = (len(payload.prompt_ids) + len(payload.response_ids)) // np.dtype("<i4").itemsize - 1
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
