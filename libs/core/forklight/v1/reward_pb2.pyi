from forklight.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProgramEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROGRAM_END_UNSPECIFIED: _ClassVar[ProgramEnd]
    PROGRAM_END_OK: _ClassVar[ProgramEnd]
    PROGRAM_END_COMPILE_ERROR: _ClassVar[ProgramEnd]
    PROGRAM_END_RUNTIME_ERROR: _ClassVar[ProgramEnd]
    PROGRAM_END_TIME_LIMIT: _ClassVar[ProgramEnd]
    PROGRAM_END_MEMORY_LIMIT: _ClassVar[ProgramEnd]
    PROGRAM_END_OUTPUT_LIMIT: _ClassVar[ProgramEnd]
    PROGRAM_END_VIOLATION: _ClassVar[ProgramEnd]
PROGRAM_END_UNSPECIFIED: ProgramEnd
PROGRAM_END_OK: ProgramEnd
PROGRAM_END_COMPILE_ERROR: ProgramEnd
PROGRAM_END_RUNTIME_ERROR: ProgramEnd
PROGRAM_END_TIME_LIMIT: ProgramEnd
PROGRAM_END_MEMORY_LIMIT: ProgramEnd
PROGRAM_END_OUTPUT_LIMIT: ProgramEnd
PROGRAM_END_VIOLATION: ProgramEnd

class ScoreRequest(_message.Message):
    __slots__ = ("envelope", "spec", "response", "finish_reason")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    envelope: _types_pb2.Envelope
    spec: _types_pb2.TaskSpec
    response: str
    finish_reason: _types_pb2.FinishReason
    def __init__(self, envelope: _Optional[_Union[_types_pb2.Envelope, _Mapping]] = ..., spec: _Optional[_Union[_types_pb2.TaskSpec, _Mapping]] = ..., response: _Optional[str] = ..., finish_reason: _Optional[_Union[_types_pb2.FinishReason, str]] = ...) -> None: ...

class ScoreReply(_message.Message):
    __slots__ = ("verdict",)
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    verdict: _types_pb2.Verdict
    def __init__(self, verdict: _Optional[_Union[_types_pb2.Verdict, _Mapping]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("envelope", "kind", "gold", "response", "extracted")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    GOLD_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    EXTRACTED_FIELD_NUMBER: _ClassVar[int]
    envelope: _types_pb2.Envelope
    kind: str
    gold: str
    response: str
    extracted: bool
    def __init__(self, envelope: _Optional[_Union[_types_pb2.Envelope, _Mapping]] = ..., kind: _Optional[str] = ..., gold: _Optional[str] = ..., response: _Optional[str] = ..., extracted: bool = ...) -> None: ...

class VerifyReply(_message.Message):
    __slots__ = ("status", "correct", "format", "answer", "evidence", "worker_version", "wall_s")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    status: _types_pb2.VerdictStatus
    correct: bool
    format: float
    answer: str
    evidence: str
    worker_version: str
    wall_s: float
    def __init__(self, status: _Optional[_Union[_types_pb2.VerdictStatus, str]] = ..., correct: bool = ..., format: _Optional[float] = ..., answer: _Optional[str] = ..., evidence: _Optional[str] = ..., worker_version: _Optional[str] = ..., wall_s: _Optional[float] = ...) -> None: ...

class ExecuteRequest(_message.Message):
    __slots__ = ("envelope", "spec_json", "source", "session")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    envelope: _types_pb2.Envelope
    spec_json: str
    source: str
    session: _types_pb2.Session
    def __init__(self, envelope: _Optional[_Union[_types_pb2.Envelope, _Mapping]] = ..., spec_json: _Optional[str] = ..., source: _Optional[str] = ..., session: _Optional[_Union[_types_pb2.Session, _Mapping]] = ...) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ("envelope", "workspace_json", "session")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_JSON_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    envelope: _types_pb2.Envelope
    workspace_json: str
    session: _types_pb2.Session
    def __init__(self, envelope: _Optional[_Union[_types_pb2.Envelope, _Mapping]] = ..., workspace_json: _Optional[str] = ..., session: _Optional[_Union[_types_pb2.Session, _Mapping]] = ...) -> None: ...

class ActReply(_message.Message):
    __slots__ = ("run", "worker_version", "wall_s")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORKER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    run: ProgramRun
    worker_version: str
    wall_s: float
    def __init__(self, run: _Optional[_Union[ProgramRun, _Mapping]] = ..., worker_version: _Optional[str] = ..., wall_s: _Optional[float] = ...) -> None: ...

class ExecuteReply(_message.Message):
    __slots__ = ("status", "result_json", "score", "evidence", "worker_version", "wall_s", "run")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    status: _types_pb2.VerdictStatus
    result_json: str
    score: float
    evidence: str
    worker_version: str
    wall_s: float
    run: ProgramRun
    def __init__(self, status: _Optional[_Union[_types_pb2.VerdictStatus, str]] = ..., result_json: _Optional[str] = ..., score: _Optional[float] = ..., evidence: _Optional[str] = ..., worker_version: _Optional[str] = ..., wall_s: _Optional[float] = ..., run: _Optional[_Union[ProgramRun, _Mapping]] = ...) -> None: ...

class ProgramRun(_message.Message):
    __slots__ = ("end", "stdout", "stderr", "stdout_bytes", "stderr_bytes")
    END_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    STDOUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STDERR_BYTES_FIELD_NUMBER: _ClassVar[int]
    end: ProgramEnd
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    def __init__(self, end: _Optional[_Union[ProgramEnd, str]] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., stdout_bytes: _Optional[int] = ..., stderr_bytes: _Optional[int] = ...) -> None: ...

class JudgeRequest(_message.Message):
    __slots__ = ("envelope", "prompt", "reference", "response", "opened_version", "spec_json")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    OPENED_VERSION_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    envelope: _types_pb2.Envelope
    prompt: str
    reference: str
    response: str
    opened_version: int
    spec_json: str
    def __init__(self, envelope: _Optional[_Union[_types_pb2.Envelope, _Mapping]] = ..., prompt: _Optional[str] = ..., reference: _Optional[str] = ..., response: _Optional[str] = ..., opened_version: _Optional[int] = ..., spec_json: _Optional[str] = ...) -> None: ...

class JudgeReply(_message.Message):
    __slots__ = ("status", "score", "grade", "evidence", "worker_version", "wall_s", "parts", "calibration")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    GRADE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    status: _types_pb2.VerdictStatus
    score: float
    grade: int
    evidence: str
    worker_version: str
    wall_s: float
    parts: _containers.RepeatedCompositeFieldContainer[_types_pb2.RewardPart]
    calibration: str
    def __init__(self, status: _Optional[_Union[_types_pb2.VerdictStatus, str]] = ..., score: _Optional[float] = ..., grade: _Optional[int] = ..., evidence: _Optional[str] = ..., worker_version: _Optional[str] = ..., wall_s: _Optional[float] = ..., parts: _Optional[_Iterable[_Union[_types_pb2.RewardPart, _Mapping]]] = ..., calibration: _Optional[str] = ...) -> None: ...
