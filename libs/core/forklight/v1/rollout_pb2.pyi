from forklight.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProbeOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROBE_OUTCOME_UNSPECIFIED: _ClassVar[ProbeOutcome]
    PROBE_OUTCOME_EQUAL: _ClassVar[ProbeOutcome]
    PROBE_OUTCOME_WITHIN: _ClassVar[ProbeOutcome]
    PROBE_OUTCOME_ABSENT: _ClassVar[ProbeOutcome]
    PROBE_OUTCOME_DISAGREES: _ClassVar[ProbeOutcome]
PROBE_OUTCOME_UNSPECIFIED: ProbeOutcome
PROBE_OUTCOME_EQUAL: ProbeOutcome
PROBE_OUTCOME_WITHIN: ProbeOutcome
PROBE_OUTCOME_ABSENT: ProbeOutcome
PROBE_OUTCOME_DISAGREES: ProbeOutcome

class GetRolloutStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRolloutStatusReply(_message.Message):
    __slots__ = ("pod", "version", "num_running", "num_waiting", "num_tokens", "tokens_per_s", "num_samples", "last_swap_s", "draining", "problem", "numeric_mode", "out_of_service", "probe", "swap_policy", "swap_cache", "waiting_version")
    POD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LAST_SWAP_S_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_MODE_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SERVICE_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    SWAP_POLICY_FIELD_NUMBER: _ClassVar[int]
    SWAP_CACHE_FIELD_NUMBER: _ClassVar[int]
    WAITING_VERSION_FIELD_NUMBER: _ClassVar[int]
    pod: str
    version: int
    num_running: int
    num_waiting: int
    num_tokens: int
    tokens_per_s: float
    num_samples: int
    last_swap_s: float
    draining: bool
    problem: str
    numeric_mode: _types_pb2.NumericMode
    out_of_service: str
    probe: Probe
    swap_policy: str
    swap_cache: str
    waiting_version: int
    def __init__(self, pod: _Optional[str] = ..., version: _Optional[int] = ..., num_running: _Optional[int] = ..., num_waiting: _Optional[int] = ..., num_tokens: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., num_samples: _Optional[int] = ..., last_swap_s: _Optional[float] = ..., draining: bool = ..., problem: _Optional[str] = ..., numeric_mode: _Optional[_Union[_types_pb2.NumericMode, _Mapping]] = ..., out_of_service: _Optional[str] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., swap_policy: _Optional[str] = ..., swap_cache: _Optional[str] = ..., waiting_version: _Optional[int] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("outcome", "version", "reason", "num_compared", "num_off", "max_difference", "probe_s")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPARED_FIELD_NUMBER: _ClassVar[int]
    NUM_OFF_FIELD_NUMBER: _ClassVar[int]
    MAX_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    PROBE_S_FIELD_NUMBER: _ClassVar[int]
    outcome: ProbeOutcome
    version: int
    reason: str
    num_compared: int
    num_off: int
    max_difference: float
    probe_s: float
    def __init__(self, outcome: _Optional[_Union[ProbeOutcome, str]] = ..., version: _Optional[int] = ..., reason: _Optional[str] = ..., num_compared: _Optional[int] = ..., num_off: _Optional[int] = ..., max_difference: _Optional[float] = ..., probe_s: _Optional[float] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("deadline_s",)
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    deadline_s: float
    def __init__(self, deadline_s: _Optional[float] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("num_finished", "num_released")
    NUM_FINISHED_FIELD_NUMBER: _ClassVar[int]
    NUM_RELEASED_FIELD_NUMBER: _ClassVar[int]
    num_finished: int
    num_released: int
    def __init__(self, num_finished: _Optional[int] = ..., num_released: _Optional[int] = ...) -> None: ...
