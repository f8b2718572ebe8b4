from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GetTrainerStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTrainerStatusReply(_message.Message):
    __slots__ = ("step", "version", "lineage", "stage", "stage_since", "problem", "steps_file")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_SINCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    STEPS_FILE_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: int
    lineage: str
    stage: str
    stage_since: float
    problem: str
    steps_file: str
    def __init__(self, step: _Optional[int] = ..., version: _Optional[int] = ..., lineage: _Optional[str] = ..., stage: _Optional[str] = ..., stage_since: _Optional[float] = ..., problem: _Optional[str] = ..., steps_file: _Optional[str] = ...) -> None: ...
