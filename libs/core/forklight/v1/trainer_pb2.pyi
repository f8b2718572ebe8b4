from forklight.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetTrainerStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTrainerStatusReply(_message.Message):
    __slots__ = ("step", "version", "lineage", "stage", "stage_since", "problem", "steps_file", "numeric_mode", "num_compared_tokens", "num_unequal_tokens", "checkpoint_steps", "roll_back")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_SINCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    STEPS_FILE_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_MODE_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPARED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_UNEQUAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_STEPS_FIELD_NUMBER: _ClassVar[int]
    ROLL_BACK_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: int
    lineage: str
    stage: str
    stage_since: float
    problem: str
    steps_file: str
    numeric_mode: _types_pb2.NumericMode
    num_compared_tokens: int
    num_unequal_tokens: int
    checkpoint_steps: _containers.RepeatedScalarFieldContainer[int]
    roll_back: str
    def __init__(self, step: _Optional[int] = ..., version: _Optional[int] = ..., lineage: _Optional[str] = ..., stage: _Optional[str] = ..., stage_since: _Optional[float] = ..., problem: _Optional[str] = ..., steps_file: _Optional[str] = ..., numeric_mode: _Optional[_Union[_types_pb2.NumericMode, _Mapping]] = ..., num_compared_tokens: _Optional[int] = ..., num_unequal_tokens: _Optional[int] = ..., checkpoint_steps: _Optional[_Iterable[int]] = ..., roll_back: _Optional[str] = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("step", "reason", "exact", "dry_run")
    STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    step: int
    reason: str
    exact: bool
    dry_run: bool
    def __init__(self, step: _Optional[int] = ..., reason: _Optional[str] = ..., exact: bool = ..., dry_run: bool = ...) -> None: ...

class RollBackReply(_message.Message):
    __slots__ = ("to_step", "to_version", "from_step", "from_version", "dry_run")
    TO_STEP_FIELD_NUMBER: _ClassVar[int]
    TO_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    to_step: int
    to_version: int
    from_step: int
    from_version: int
    dry_run: bool
    def __init__(self, to_step: _Optional[int] = ..., to_version: _Optional[int] = ..., from_step: _Optional[int] = ..., from_version: _Optional[int] = ..., dry_run: bool = ...) -> None: ...

class SaveCheckpointRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class SaveCheckpointReply(_message.Message):
    __slots__ = ("step", "durable_step")
    STEP_FIELD_NUMBER: _ClassVar[int]
    DURABLE_STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    durable_step: int
    def __init__(self, step: _Optional[int] = ..., durable_step: _Optional[int] = ...) -> None: ...
