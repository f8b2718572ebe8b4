from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_REPETITION: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]

class SampleState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLE_STATE_UNSPECIFIED: _ClassVar[SampleState]
    SAMPLE_STATE_QUEUED: _ClassVar[SampleState]
    SAMPLE_STATE_GENERATED: _ClassVar[SampleState]
    SAMPLE_STATE_SCORED: _ClassVar[SampleState]
    SAMPLE_STATE_READY: _ClassVar[SampleState]
    SAMPLE_STATE_LEASED: _ClassVar[SampleState]
    SAMPLE_STATE_TRAINED: _ClassVar[SampleState]
    SAMPLE_STATE_FILTERED: _ClassVar[SampleState]
    SAMPLE_STATE_STALE: _ClassVar[SampleState]
    SAMPLE_STATE_REWARD_FAILED: _ClassVar[SampleState]
    SAMPLE_STATE_INFRA_FAILED: _ClassVar[SampleState]
    SAMPLE_STATE_CANCELLED: _ClassVar[SampleState]

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_TRAIN: _ClassVar[Purpose]
    PURPOSE_EVALUATE: _ClassVar[Purpose]

class VerdictStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_STATUS_UNSPECIFIED: _ClassVar[VerdictStatus]
    VERDICT_STATUS_OK: _ClassVar[VerdictStatus]
    VERDICT_STATUS_WRONG: _ClassVar[VerdictStatus]
    VERDICT_STATUS_LIMIT: _ClassVar[VerdictStatus]
    VERDICT_STATUS_UNVERIFIABLE: _ClassVar[VerdictStatus]
    VERDICT_STATUS_ABSTAIN: _ClassVar[VerdictStatus]
    VERDICT_STATUS_INFRA_ERROR: _ClassVar[VerdictStatus]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFO: _ClassVar[Severity]
    SEVERITY_WARNING: _ClassVar[Severity]
    SEVERITY_ALERT: _ClassVar[Severity]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_REPETITION: FinishReason
FINISH_REASON_CANCELLED: FinishReason
SAMPLE_STATE_UNSPECIFIED: SampleState
SAMPLE_STATE_QUEUED: SampleState
SAMPLE_STATE_GENERATED: SampleState
SAMPLE_STATE_SCORED: SampleState
SAMPLE_STATE_READY: SampleState
SAMPLE_STATE_LEASED: SampleState
SAMPLE_STATE_TRAINED: SampleState
SAMPLE_STATE_FILTERED: SampleState
SAMPLE_STATE_STALE: SampleState
SAMPLE_STATE_REWARD_FAILED: SampleState
SAMPLE_STATE_INFRA_FAILED: SampleState
SAMPLE_STATE_CANCELLED: SampleState
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_TRAIN: Purpose
PURPOSE_EVALUATE: Purpose
VERDICT_STATUS_UNSPECIFIED: VerdictStatus
VERDICT_STATUS_OK: VerdictStatus
VERDICT_STATUS_WRONG: VerdictStatus
VERDICT_STATUS_LIMIT: VerdictStatus
VERDICT_STATUS_UNVERIFIABLE: VerdictStatus
VERDICT_STATUS_ABSTAIN: VerdictStatus
VERDICT_STATUS_INFRA_ERROR: VerdictStatus
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFO: Severity
SEVERITY_WARNING: Severity
SEVERITY_ALERT: Severity

class BlobRef(_message.Message):
    __slots__ = ("id", "size_bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    size_bytes: int
    def __init__(self, id: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("schema_version", "run_id", "group_id", "sample_id", "attempt", "traceparent")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    run_id: str
    group_id: str
    sample_id: str
    attempt: int
    traceparent: str
    def __init__(self, schema_version: _Optional[int] = ..., run_id: _Optional[str] = ..., group_id: _Optional[str] = ..., sample_id: _Optional[str] = ..., attempt: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class VersionSpan(_message.Message):
    __slots__ = ("start", "version")
    START_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    start: int
    version: int
    def __init__(self, start: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("num_samples", "max_new_tokens", "temperature", "top_p", "seed", "repetition_probability", "repetition_tokens")
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    num_samples: int
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    repetition_probability: float
    repetition_tokens: int
    def __init__(self, num_samples: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., repetition_probability: _Optional[float] = ..., repetition_tokens: _Optional[int] = ...) -> None: ...

class Tools(_message.Message):
    __slots__ = ("names", "max_calls", "max_output_tokens", "timeout_s", "workspace")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    max_calls: int
    max_output_tokens: int
    timeout_s: float
    workspace: BlobRef
    def __init__(self, names: _Optional[_Iterable[str]] = ..., max_calls: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., timeout_s: _Optional[float] = ..., workspace: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("entry_id", "consumer", "fence")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    consumer: str
    fence: int
    def __init__(self, entry_id: _Optional[str] = ..., consumer: _Optional[str] = ..., fence: _Optional[int] = ...) -> None: ...

class GenerationTask(_message.Message):
    __slots__ = ("envelope", "prompt_id", "prompt", "sampling", "purpose", "opened_version", "tools")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    OPENED_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    envelope: Envelope
    prompt_id: str
    prompt: str
    sampling: Sampling
    purpose: Purpose
    opened_version: int
    tools: Tools
    def __init__(self, envelope: _Optional[_Union[Envelope, _Mapping]] = ..., prompt_id: _Optional[str] = ..., prompt: _Optional[str] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., opened_version: _Optional[int] = ..., tools: _Optional[_Union[Tools, _Mapping]] = ...) -> None: ...

class Trajectory(_message.Message):
    __slots__ = ("envelope", "prompt_id", "payload", "num_prompt_tokens", "num_response_tokens", "finish_reason", "version_spans", "pod", "started_at", "finished_at", "purpose")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_SPANS_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    envelope: Envelope
    prompt_id: str
    payload: BlobRef
    num_prompt_tokens: int
    num_response_tokens: int
    finish_reason: FinishReason
    version_spans: _containers.RepeatedCompositeFieldContainer[VersionSpan]
    pod: str
    started_at: float
    finished_at: float
    purpose: Purpose
    def __init__(self, envelope: _Optional[_Union[Envelope, _Mapping]] = ..., prompt_id: _Optional[str] = ..., payload: _Optional[_Union[BlobRef, _Mapping]] = ..., num_prompt_tokens: _Optional[int] = ..., num_response_tokens: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., version_spans: _Optional[_Iterable[_Union[VersionSpan, _Mapping]]] = ..., pod: _Optional[str] = ..., started_at: _Optional[float] = ..., finished_at: _Optional[float] = ..., purpose: _Optional[_Union[Purpose, str]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("start", "num_tokens", "payload", "min_version")
    START_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    start: int
    num_tokens: int
    payload: BlobRef
    min_version: int
    def __init__(self, start: _Optional[int] = ..., num_tokens: _Optional[int] = ..., payload: _Optional[_Union[BlobRef, _Mapping]] = ..., min_version: _Optional[int] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("commands", "timeout_s")
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedScalarFieldContainer[str]
    timeout_s: float
    def __init__(self, commands: _Optional[_Iterable[str]] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class TrajectoryPayload(_message.Message):
    __slots__ = ("schema_version", "sample_id", "prompt_ids", "response_ids", "logprobs", "raw_logprobs", "text", "contract", "routing_experts", "routing_weights", "routing_layers", "routing_top_k", "start", "drawn", "version_spans", "session")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RAW_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    ROUTING_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    ROUTING_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ROUTING_LAYERS_FIELD_NUMBER: _ClassVar[int]
    ROUTING_TOP_K_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    VERSION_SPANS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    sample_id: str
    prompt_ids: bytes
    response_ids: bytes
    logprobs: bytes
    raw_logprobs: bytes
    text: str
    contract: str
    routing_experts: bytes
    routing_weights: bytes
    routing_layers: int
    routing_top_k: int
    start: int
    drawn: bytes
    version_spans: _containers.RepeatedCompositeFieldContainer[VersionSpan]
    session: Session
    def __init__(self, schema_version: _Optional[int] = ..., sample_id: _Optional[str] = ..., prompt_ids: _Optional[bytes] = ..., response_ids: _Optional[bytes] = ..., logprobs: _Optional[bytes] = ..., raw_logprobs: _Optional[bytes] = ..., text: _Optional[str] = ..., contract: _Optional[str] = ..., routing_experts: _Optional[bytes] = ..., routing_weights: _Optional[bytes] = ..., routing_layers: _Optional[int] = ..., routing_top_k: _Optional[int] = ..., start: _Optional[int] = ..., drawn: _Optional[bytes] = ..., version_spans: _Optional[_Iterable[_Union[VersionSpan, _Mapping]]] = ..., session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ScoringTask(_message.Message):
    __slots__ = ("envelope", "trajectory", "kind", "spec", "window_tokens", "opened_version")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OPENED_VERSION_FIELD_NUMBER: _ClassVar[int]
    envelope: Envelope
    trajectory: Trajectory
    kind: str
    spec: BlobRef
    window_tokens: int
    opened_version: int
    def __init__(self, envelope: _Optional[_Union[Envelope, _Mapping]] = ..., trajectory: _Optional[_Union[Trajectory, _Mapping]] = ..., kind: _Optional[str] = ..., spec: _Optional[_Union[BlobRef, _Mapping]] = ..., window_tokens: _Optional[int] = ..., opened_version: _Optional[int] = ...) -> None: ...

class TaskSpec(_message.Message):
    __slots__ = ("schema_version", "kind", "prompt", "gold", "spec_json", "source")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    GOLD_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    kind: str
    prompt: str
    gold: str
    spec_json: str
    source: str
    def __init__(self, schema_version: _Optional[int] = ..., kind: _Optional[str] = ..., prompt: _Optional[str] = ..., gold: _Optional[str] = ..., spec_json: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class RewardPart(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("envelope", "status", "score", "parts", "evidence", "worker", "worker_version", "wall_s", "num_attempts", "mask", "key", "evidence_ref", "versions", "usage", "tier", "reused")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WORKER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    NUM_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_REF_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    envelope: Envelope
    status: VerdictStatus
    score: float
    parts: _containers.RepeatedCompositeFieldContainer[RewardPart]
    evidence: str
    worker: str
    worker_version: str
    wall_s: float
    num_attempts: int
    mask: bool
    key: str
    evidence_ref: str
    versions: _containers.ScalarMap[str, str]
    usage: VerdictUsage
    tier: str
    reused: bool
    def __init__(self, envelope: _Optional[_Union[Envelope, _Mapping]] = ..., status: _Optional[_Union[VerdictStatus, str]] = ..., score: _Optional[float] = ..., parts: _Optional[_Iterable[_Union[RewardPart, _Mapping]]] = ..., evidence: _Optional[str] = ..., worker: _Optional[str] = ..., worker_version: _Optional[str] = ..., wall_s: _Optional[float] = ..., num_attempts: _Optional[int] = ..., mask: bool = ..., key: _Optional[str] = ..., evidence_ref: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., usage: _Optional[_Union[VerdictUsage, _Mapping]] = ..., tier: _Optional[str] = ..., reused: bool = ...) -> None: ...

class VerdictUsage(_message.Message):
    __slots__ = ("cpu_ms", "wall_ms", "mem_peak_bytes", "out_bytes", "tokens")
    CPU_MS_FIELD_NUMBER: _ClassVar[int]
    WALL_MS_FIELD_NUMBER: _ClassVar[int]
    MEM_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    cpu_ms: int
    wall_ms: int
    mem_peak_bytes: int
    out_bytes: int
    tokens: int
    def __init__(self, cpu_ms: _Optional[int] = ..., wall_ms: _Optional[int] = ..., mem_peak_bytes: _Optional[int] = ..., out_bytes: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class BatchSample(_message.Message):
    __slots__ = ("trajectory", "reward", "parts")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    trajectory: Trajectory
    reward: float
    parts: _containers.RepeatedCompositeFieldContainer[RewardPart]
    def __init__(self, trajectory: _Optional[_Union[Trajectory, _Mapping]] = ..., reward: _Optional[float] = ..., parts: _Optional[_Iterable[_Union[RewardPart, _Mapping]]] = ...) -> None: ...

class BatchGroup(_message.Message):
    __slots__ = ("group_id", "prompt_id", "samples")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    prompt_id: str
    samples: _containers.RepeatedCompositeFieldContainer[BatchSample]
    def __init__(self, group_id: _Optional[str] = ..., prompt_id: _Optional[str] = ..., samples: _Optional[_Iterable[_Union[BatchSample, _Mapping]]] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("batch_id", "step", "groups", "policy_version")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    step: int
    groups: _containers.RepeatedCompositeFieldContainer[BatchGroup]
    policy_version: int
    def __init__(self, batch_id: _Optional[str] = ..., step: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[BatchGroup, _Mapping]]] = ..., policy_version: _Optional[int] = ...) -> None: ...

class CommitRecord(_message.Message):
    __slots__ = ("lineage", "step", "batch_id", "sample_ids")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    step: int
    batch_id: str
    sample_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lineage: _Optional[str] = ..., step: _Optional[int] = ..., batch_id: _Optional[str] = ..., sample_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("id", "kind", "severity", "step", "version", "at", "title", "evidence_json", "undone")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_JSON_FIELD_NUMBER: _ClassVar[int]
    UNDONE_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    severity: Severity
    step: int
    version: int
    at: float
    title: str
    evidence_json: str
    undone: bool
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., at: _Optional[float] = ..., title: _Optional[str] = ..., evidence_json: _Optional[str] = ..., undone: bool = ...) -> None: ...

class NumericMode(_message.Message):
    __slots__ = ("is_parity", "reason", "contract", "device", "torch", "triton")
    IS_PARITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    TRITON_FIELD_NUMBER: _ClassVar[int]
    is_parity: bool
    reason: str
    contract: str
    device: str
    torch: str
    triton: str
    def __init__(self, is_parity: bool = ..., reason: _Optional[str] = ..., contract: _Optional[str] = ..., device: _Optional[str] = ..., torch: _Optional[str] = ..., triton: _Optional[str] = ...) -> None: ...

class WeightsRef(_message.Message):
    __slots__ = ("version", "manifest", "manifest_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_ID_FIELD_NUMBER: _ClassVar[int]
    version: int
    manifest: str
    manifest_id: str
    def __init__(self, version: _Optional[int] = ..., manifest: _Optional[str] = ..., manifest_id: _Optional[str] = ...) -> None: ...
