from forklight.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetRolloutStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRolloutStatusReply(_message.Message):
    __slots__ = ("pod", "version", "num_running", "num_waiting", "num_tokens", "tokens_per_s", "num_samples", "last_swap_s", "draining", "problem", "numeric_mode")
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
    def __init__(self, pod: _Optional[str] = ..., version: _Optional[int] = ..., num_running: _Optional[int] = ..., num_waiting: _Optional[int] = ..., num_tokens: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., num_samples: _Optional[int] = ..., last_swap_s: _Optional[float] = ..., draining: bool = ..., problem: _Optional[str] = ..., numeric_mode: _Optional[_Union[_types_pb2.NumericMode, _Mapping]] = ...) -> None: ...

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
