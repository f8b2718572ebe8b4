from forklight.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubmitOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUBMIT_OUTCOME_UNSPECIFIED: _ClassVar[SubmitOutcome]
    SUBMIT_OUTCOME_ACCEPTED: _ClassVar[SubmitOutcome]
    SUBMIT_OUTCOME_DUPLICATE: _ClassVar[SubmitOutcome]
    SUBMIT_OUTCOME_DROPPED: _ClassVar[SubmitOutcome]

class RunPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_PHASE_UNSPECIFIED: _ClassVar[RunPhase]
    RUN_PHASE_RUNNING: _ClassVar[RunPhase]
    RUN_PHASE_PAUSED: _ClassVar[RunPhase]
    RUN_PHASE_DRAINING: _ClassVar[RunPhase]
    RUN_PHASE_FINISHED: _ClassVar[RunPhase]

class SampleOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLE_ORDER_UNSPECIFIED: _ClassVar[SampleOrder]
    SAMPLE_ORDER_NEWEST: _ClassVar[SampleOrder]
    SAMPLE_ORDER_OLDEST: _ClassVar[SampleOrder]
    SAMPLE_ORDER_HIGHEST_REWARD: _ClassVar[SampleOrder]
    SAMPLE_ORDER_LOWEST_REWARD: _ClassVar[SampleOrder]
    SAMPLE_ORDER_LONGEST: _ClassVar[SampleOrder]
    SAMPLE_ORDER_SHORTEST: _ClassVar[SampleOrder]
SUBMIT_OUTCOME_UNSPECIFIED: SubmitOutcome
SUBMIT_OUTCOME_ACCEPTED: SubmitOutcome
SUBMIT_OUTCOME_DUPLICATE: SubmitOutcome
SUBMIT_OUTCOME_DROPPED: SubmitOutcome
RUN_PHASE_UNSPECIFIED: RunPhase
RUN_PHASE_RUNNING: RunPhase
RUN_PHASE_PAUSED: RunPhase
RUN_PHASE_DRAINING: RunPhase
RUN_PHASE_FINISHED: RunPhase
SAMPLE_ORDER_UNSPECIFIED: SampleOrder
SAMPLE_ORDER_NEWEST: SampleOrder
SAMPLE_ORDER_OLDEST: SampleOrder
SAMPLE_ORDER_HIGHEST_REWARD: SampleOrder
SAMPLE_ORDER_LOWEST_REWARD: SampleOrder
SAMPLE_ORDER_LONGEST: SampleOrder
SAMPLE_ORDER_SHORTEST: SampleOrder

class SubmitTrajectoryRequest(_message.Message):
    __slots__ = ("trajectory", "lease")
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    trajectory: _types_pb2.Trajectory
    lease: _types_pb2.Lease
    def __init__(self, trajectory: _Optional[_Union[_types_pb2.Trajectory, _Mapping]] = ..., lease: _Optional[_Union[_types_pb2.Lease, _Mapping]] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: SubmitOutcome
    def __init__(self, outcome: _Optional[_Union[SubmitOutcome, str]] = ...) -> None: ...

class SubmitTrajectoriesRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SubmitTrajectoryRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[SubmitTrajectoryRequest, _Mapping]]] = ...) -> None: ...

class SubmitVerdictsRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SubmitVerdictRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[SubmitVerdictRequest, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("error", "message")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error: str
    message: str
    def __init__(self, error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class SubmitResult(_message.Message):
    __slots__ = ("outcome", "refusal")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    outcome: SubmitOutcome
    refusal: Refusal
    def __init__(self, outcome: _Optional[_Union[SubmitOutcome, str]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class SubmitManyReply(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SubmitResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SubmitResult, _Mapping]]] = ...) -> None: ...

class GetPendingSamplesRequest(_message.Message):
    __slots__ = ("run_id", "group_id", "lease")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    group_id: str
    lease: _types_pb2.Lease
    def __init__(self, run_id: _Optional[str] = ..., group_id: _Optional[str] = ..., lease: _Optional[_Union[_types_pb2.Lease, _Mapping]] = ...) -> None: ...

class GetPendingSamplesReply(_message.Message):
    __slots__ = ("indices", "saved")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    saved: _containers.RepeatedCompositeFieldContainer[SavedSample]
    def __init__(self, indices: _Optional[_Iterable[int]] = ..., saved: _Optional[_Iterable[_Union[SavedSample, _Mapping]]] = ...) -> None: ...

class SavedSample(_message.Message):
    __slots__ = ("index", "segments")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    index: int
    segments: _containers.RepeatedCompositeFieldContainer[_types_pb2.Segment]
    def __init__(self, index: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[_types_pb2.Segment, _Mapping]]] = ...) -> None: ...

class SaveSegmentRequest(_message.Message):
    __slots__ = ("run_id", "group_id", "sample_id", "segment", "lease")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    group_id: str
    sample_id: str
    segment: _types_pb2.Segment
    lease: _types_pb2.Lease
    def __init__(self, run_id: _Optional[str] = ..., group_id: _Optional[str] = ..., sample_id: _Optional[str] = ..., segment: _Optional[_Union[_types_pb2.Segment, _Mapping]] = ..., lease: _Optional[_Union[_types_pb2.Lease, _Mapping]] = ...) -> None: ...

class DropSegmentsRequest(_message.Message):
    __slots__ = ("run_id", "group_id", "sample_id", "from_start", "lease")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_START_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    group_id: str
    sample_id: str
    from_start: int
    lease: _types_pb2.Lease
    def __init__(self, run_id: _Optional[str] = ..., group_id: _Optional[str] = ..., sample_id: _Optional[str] = ..., from_start: _Optional[int] = ..., lease: _Optional[_Union[_types_pb2.Lease, _Mapping]] = ...) -> None: ...

class SaveSegmentReply(_message.Message):
    __slots__ = ("outcome", "num_saved_tokens")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    NUM_SAVED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    outcome: SubmitOutcome
    num_saved_tokens: int
    def __init__(self, outcome: _Optional[_Union[SubmitOutcome, str]] = ..., num_saved_tokens: _Optional[int] = ...) -> None: ...

class SubmitVerdictRequest(_message.Message):
    __slots__ = ("verdict", "lease")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    verdict: _types_pb2.Verdict
    lease: _types_pb2.Lease
    def __init__(self, verdict: _Optional[_Union[_types_pb2.Verdict, _Mapping]] = ..., lease: _Optional[_Union[_types_pb2.Lease, _Mapping]] = ...) -> None: ...

class RestoreTrainerRequest(_message.Message):
    __slots__ = ("run_id", "lineage", "step", "version", "commits", "window_tokens", "events")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    lineage: str
    step: int
    version: int
    commits: _containers.RepeatedCompositeFieldContainer[_types_pb2.CommitRecord]
    window_tokens: int
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.RunEvent]
    def __init__(self, run_id: _Optional[str] = ..., lineage: _Optional[str] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., commits: _Optional[_Iterable[_Union[_types_pb2.CommitRecord, _Mapping]]] = ..., window_tokens: _Optional[int] = ..., events: _Optional[_Iterable[_Union[_types_pb2.RunEvent, _Mapping]]] = ...) -> None: ...

class RestoreTrainerReply(_message.Message):
    __slots__ = ("epoch", "lineage", "num_redelivered", "num_recovered")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    NUM_REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    NUM_RECOVERED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    lineage: str
    num_redelivered: int
    num_recovered: int
    def __init__(self, epoch: _Optional[int] = ..., lineage: _Optional[str] = ..., num_redelivered: _Optional[int] = ..., num_recovered: _Optional[int] = ...) -> None: ...

class LeaseBatchRequest(_message.Message):
    __slots__ = ("run_id", "epoch", "step", "wait_s")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    epoch: int
    step: int
    wait_s: float
    def __init__(self, run_id: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class LeaseBatchReply(_message.Message):
    __slots__ = ("batch", "phase", "reason")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    batch: _types_pb2.Batch
    phase: RunPhase
    reason: str
    def __init__(self, batch: _Optional[_Union[_types_pb2.Batch, _Mapping]] = ..., phase: _Optional[_Union[RunPhase, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class CommitStepsRequest(_message.Message):
    __slots__ = ("run_id", "epoch", "records", "window_tokens", "events")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    epoch: int
    records: _containers.RepeatedCompositeFieldContainer[_types_pb2.CommitRecord]
    window_tokens: int
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.RunEvent]
    def __init__(self, run_id: _Optional[str] = ..., epoch: _Optional[int] = ..., records: _Optional[_Iterable[_Union[_types_pb2.CommitRecord, _Mapping]]] = ..., window_tokens: _Optional[int] = ..., events: _Optional[_Iterable[_Union[_types_pb2.RunEvent, _Mapping]]] = ...) -> None: ...

class CommitStepsReply(_message.Message):
    __slots__ = ("num_trained", "num_duplicates")
    NUM_TRAINED_FIELD_NUMBER: _ClassVar[int]
    NUM_DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    num_trained: int
    num_duplicates: int
    def __init__(self, num_trained: _Optional[int] = ..., num_duplicates: _Optional[int] = ...) -> None: ...

class AnnounceVersionRequest(_message.Message):
    __slots__ = ("run_id", "epoch", "weights")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    epoch: int
    weights: _types_pb2.WeightsRef
    def __init__(self, run_id: _Optional[str] = ..., epoch: _Optional[int] = ..., weights: _Optional[_Union[_types_pb2.WeightsRef, _Mapping]] = ...) -> None: ...

class AnnounceVersionReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class ReportEventsRequest(_message.Message):
    __slots__ = ("run_id", "events")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.RunEvent]
    def __init__(self, run_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[_types_pb2.RunEvent, _Mapping]]] = ...) -> None: ...

class ReportEventsReply(_message.Message):
    __slots__ = ("num_entered",)
    NUM_ENTERED_FIELD_NUMBER: _ClassVar[int]
    num_entered: int
    def __init__(self, num_entered: _Optional[int] = ...) -> None: ...

class ReportLostSampleRequest(_message.Message):
    __slots__ = ("run_id", "epoch", "sample_id", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    epoch: int
    sample_id: str
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., epoch: _Optional[int] = ..., sample_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SetRunPhaseRequest(_message.Message):
    __slots__ = ("run_id", "phase", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    phase: RunPhase
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., phase: _Optional[_Union[RunPhase, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class SetRunPhaseReply(_message.Message):
    __slots__ = ("phase",)
    PHASE_FIELD_NUMBER: _ClassVar[int]
    phase: RunPhase
    def __init__(self, phase: _Optional[_Union[RunPhase, str]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class StateCount(_message.Message):
    __slots__ = ("state", "reason", "num_samples")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    state: _types_pb2.SampleState
    reason: str
    num_samples: int
    def __init__(self, state: _Optional[_Union[_types_pb2.SampleState, str]] = ..., reason: _Optional[str] = ..., num_samples: _Optional[int] = ...) -> None: ...

class PassAtK(_message.Message):
    __slots__ = ("k", "value", "low", "high", "num_prompts")
    K_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    k: int
    value: float
    low: float
    high: float
    num_prompts: int
    def __init__(self, k: _Optional[int] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., num_prompts: _Optional[int] = ...) -> None: ...

class EvaluationResult(_message.Message):
    __slots__ = ("version", "num_samples", "num_failed", "mean_reward", "complete", "pass_at", "reward_low", "reward_high", "confidence", "num_prompts", "samples_per_prompt", "num_scored_prompts", "cut")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_FAILED_FIELD_NUMBER: _ClassVar[int]
    MEAN_REWARD_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PASS_AT_FIELD_NUMBER: _ClassVar[int]
    REWARD_LOW_FIELD_NUMBER: _ClassVar[int]
    REWARD_HIGH_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_PROMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_SCORED_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    version: int
    num_samples: int
    num_failed: int
    mean_reward: float
    complete: bool
    pass_at: _containers.RepeatedCompositeFieldContainer[PassAtK]
    reward_low: float
    reward_high: float
    confidence: float
    num_prompts: int
    samples_per_prompt: int
    num_scored_prompts: int
    cut: bool
    def __init__(self, version: _Optional[int] = ..., num_samples: _Optional[int] = ..., num_failed: _Optional[int] = ..., mean_reward: _Optional[float] = ..., complete: bool = ..., pass_at: _Optional[_Iterable[_Union[PassAtK, _Mapping]]] = ..., reward_low: _Optional[float] = ..., reward_high: _Optional[float] = ..., confidence: _Optional[float] = ..., num_prompts: _Optional[int] = ..., samples_per_prompt: _Optional[int] = ..., num_scored_prompts: _Optional[int] = ..., cut: bool = ...) -> None: ...

class QueueStatus(_message.Message):
    __slots__ = ("name", "num_waiting", "num_leased", "oldest_age_s", "holders")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    NUM_LEASED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AGE_S_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_waiting: int
    num_leased: int
    oldest_age_s: float
    holders: _containers.RepeatedCompositeFieldContainer[LeaseHolder]
    def __init__(self, name: _Optional[str] = ..., num_waiting: _Optional[int] = ..., num_leased: _Optional[int] = ..., oldest_age_s: _Optional[float] = ..., holders: _Optional[_Iterable[_Union[LeaseHolder, _Mapping]]] = ...) -> None: ...

class LeaseHolder(_message.Message):
    __slots__ = ("name", "num_leased")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_LEASED_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_leased: int
    def __init__(self, name: _Optional[str] = ..., num_leased: _Optional[int] = ...) -> None: ...

class StuckSample(_message.Message):
    __slots__ = ("sample_id", "state", "since", "where")
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    sample_id: str
    state: _types_pb2.SampleState
    since: float
    where: str
    def __init__(self, sample_id: _Optional[str] = ..., state: _Optional[_Union[_types_pb2.SampleState, str]] = ..., since: _Optional[float] = ..., where: _Optional[str] = ...) -> None: ...

class GetStatusReply(_message.Message):
    __slots__ = ("run_id", "phase", "reason", "version", "weights", "step", "counts", "queues", "evaluations", "num_open_groups", "num_ready_groups", "credit_tokens", "credit_bytes", "num_dead_letters", "stuck", "lineage", "window_tokens", "events", "is_last_evaluation", "num_skipped_evaluations")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_OPEN_GROUPS_FIELD_NUMBER: _ClassVar[int]
    NUM_READY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    NUM_SKIPPED_EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    phase: RunPhase
    reason: str
    version: int
    weights: _types_pb2.WeightsRef
    step: int
    counts: _containers.RepeatedCompositeFieldContainer[StateCount]
    queues: _containers.RepeatedCompositeFieldContainer[QueueStatus]
    evaluations: _containers.RepeatedCompositeFieldContainer[EvaluationResult]
    num_open_groups: int
    num_ready_groups: int
    credit_tokens: int
    credit_bytes: int
    num_dead_letters: int
    stuck: _containers.RepeatedCompositeFieldContainer[StuckSample]
    lineage: str
    window_tokens: int
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.RunEvent]
    is_last_evaluation: bool
    num_skipped_evaluations: int
    def __init__(self, run_id: _Optional[str] = ..., phase: _Optional[_Union[RunPhase, str]] = ..., reason: _Optional[str] = ..., version: _Optional[int] = ..., weights: _Optional[_Union[_types_pb2.WeightsRef, _Mapping]] = ..., step: _Optional[int] = ..., counts: _Optional[_Iterable[_Union[StateCount, _Mapping]]] = ..., queues: _Optional[_Iterable[_Union[QueueStatus, _Mapping]]] = ..., evaluations: _Optional[_Iterable[_Union[EvaluationResult, _Mapping]]] = ..., num_open_groups: _Optional[int] = ..., num_ready_groups: _Optional[int] = ..., credit_tokens: _Optional[int] = ..., credit_bytes: _Optional[int] = ..., num_dead_letters: _Optional[int] = ..., stuck: _Optional[_Iterable[_Union[StuckSample, _Mapping]]] = ..., lineage: _Optional[str] = ..., window_tokens: _Optional[int] = ..., events: _Optional[_Iterable[_Union[_types_pb2.RunEvent, _Mapping]]] = ..., is_last_evaluation: bool = ..., num_skipped_evaluations: _Optional[int] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("run_id", "limit", "after", "newest_first")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    limit: int
    after: str
    newest_first: bool
    def __init__(self, run_id: _Optional[str] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ..., newest_first: bool = ...) -> None: ...

class ListEventsReply(_message.Message):
    __slots__ = ("events", "next")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.RunEvent]
    next: str
    def __init__(self, events: _Optional[_Iterable[_Union[_types_pb2.RunEvent, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class ListSamplesRequest(_message.Message):
    __slots__ = ("run_id", "state", "group_id", "limit", "after")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    state: _types_pb2.SampleState
    group_id: str
    limit: int
    after: str
    def __init__(self, run_id: _Optional[str] = ..., state: _Optional[_Union[_types_pb2.SampleState, str]] = ..., group_id: _Optional[str] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class SampleRecord(_message.Message):
    __slots__ = ("sample_id", "group_id", "prompt_id", "state", "reason", "reward", "num_response_tokens", "finish_reason", "min_version", "max_version", "lineage", "step", "payload", "updated_at", "purpose", "num_saved_tokens", "kind", "domain")
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    NUM_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_VERSION_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    NUM_SAVED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    sample_id: str
    group_id: str
    prompt_id: str
    state: _types_pb2.SampleState
    reason: str
    reward: float
    num_response_tokens: int
    finish_reason: _types_pb2.FinishReason
    min_version: int
    max_version: int
    lineage: str
    step: int
    payload: _types_pb2.BlobRef
    updated_at: float
    purpose: _types_pb2.Purpose
    num_saved_tokens: int
    kind: str
    domain: str
    def __init__(self, sample_id: _Optional[str] = ..., group_id: _Optional[str] = ..., prompt_id: _Optional[str] = ..., state: _Optional[_Union[_types_pb2.SampleState, str]] = ..., reason: _Optional[str] = ..., reward: _Optional[float] = ..., num_response_tokens: _Optional[int] = ..., finish_reason: _Optional[_Union[_types_pb2.FinishReason, str]] = ..., min_version: _Optional[int] = ..., max_version: _Optional[int] = ..., lineage: _Optional[str] = ..., step: _Optional[int] = ..., payload: _Optional[_Union[_types_pb2.BlobRef, _Mapping]] = ..., updated_at: _Optional[float] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., num_saved_tokens: _Optional[int] = ..., kind: _Optional[str] = ..., domain: _Optional[str] = ...) -> None: ...

class ListSamplesReply(_message.Message):
    __slots__ = ("samples", "next")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[SampleRecord]
    next: str
    def __init__(self, samples: _Optional[_Iterable[_Union[SampleRecord, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class SearchSamplesRequest(_message.Message):
    __slots__ = ("run_id", "states", "reward_min", "reward_max", "length_min", "length_max", "kind", "domain", "reason", "step_min", "step_max", "group_id", "prompt_id", "finish_reason", "purpose", "order", "limit", "after")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    REWARD_MIN_FIELD_NUMBER: _ClassVar[int]
    REWARD_MAX_FIELD_NUMBER: _ClassVar[int]
    LENGTH_MIN_FIELD_NUMBER: _ClassVar[int]
    LENGTH_MAX_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEP_MIN_FIELD_NUMBER: _ClassVar[int]
    STEP_MAX_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    states: _containers.RepeatedScalarFieldContainer[_types_pb2.SampleState]
    reward_min: float
    reward_max: float
    length_min: int
    length_max: int
    kind: str
    domain: str
    reason: str
    step_min: int
    step_max: int
    group_id: str
    prompt_id: str
    finish_reason: _types_pb2.FinishReason
    purpose: _types_pb2.Purpose
    order: SampleOrder
    limit: int
    after: str
    def __init__(self, run_id: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_types_pb2.SampleState, str]]] = ..., reward_min: _Optional[float] = ..., reward_max: _Optional[float] = ..., length_min: _Optional[int] = ..., length_max: _Optional[int] = ..., kind: _Optional[str] = ..., domain: _Optional[str] = ..., reason: _Optional[str] = ..., step_min: _Optional[int] = ..., step_max: _Optional[int] = ..., group_id: _Optional[str] = ..., prompt_id: _Optional[str] = ..., finish_reason: _Optional[_Union[_types_pb2.FinishReason, str]] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., order: _Optional[_Union[SampleOrder, str]] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class SearchSamplesReply(_message.Message):
    __slots__ = ("samples", "next", "num_matching", "mean_reward", "mean_length", "num_searched", "num_terminal", "is_reading")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    NUM_MATCHING_FIELD_NUMBER: _ClassVar[int]
    MEAN_REWARD_FIELD_NUMBER: _ClassVar[int]
    MEAN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NUM_SEARCHED_FIELD_NUMBER: _ClassVar[int]
    NUM_TERMINAL_FIELD_NUMBER: _ClassVar[int]
    IS_READING_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[SampleRecord]
    next: str
    num_matching: int
    mean_reward: float
    mean_length: float
    num_searched: int
    num_terminal: int
    is_reading: bool
    def __init__(self, samples: _Optional[_Iterable[_Union[SampleRecord, _Mapping]]] = ..., next: _Optional[str] = ..., num_matching: _Optional[int] = ..., mean_reward: _Optional[float] = ..., mean_length: _Optional[float] = ..., num_searched: _Optional[int] = ..., num_terminal: _Optional[int] = ..., is_reading: bool = ...) -> None: ...

class GetGroupRequest(_message.Message):
    __slots__ = ("run_id", "group_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    group_id: str
    def __init__(self, run_id: _Optional[str] = ..., group_id: _Optional[str] = ...) -> None: ...

class GroupSample(_message.Message):
    __slots__ = ("record", "trajectory", "verdict", "segments")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    record: SampleRecord
    trajectory: _types_pb2.Trajectory
    verdict: _types_pb2.Verdict
    segments: _containers.RepeatedCompositeFieldContainer[_types_pb2.Segment]
    def __init__(self, record: _Optional[_Union[SampleRecord, _Mapping]] = ..., trajectory: _Optional[_Union[_types_pb2.Trajectory, _Mapping]] = ..., verdict: _Optional[_Union[_types_pb2.Verdict, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[_types_pb2.Segment, _Mapping]]] = ...) -> None: ...

class GetGroupReply(_message.Message):
    __slots__ = ("group_id", "prompt_id", "kind", "domain", "purpose", "window_tokens", "opened_version", "opened_at", "redrive_of", "batch_step", "is_over", "prompt", "samples")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OPENED_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPENED_AT_FIELD_NUMBER: _ClassVar[int]
    REDRIVE_OF_FIELD_NUMBER: _ClassVar[int]
    BATCH_STEP_FIELD_NUMBER: _ClassVar[int]
    IS_OVER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    prompt_id: str
    kind: str
    domain: str
    purpose: _types_pb2.Purpose
    window_tokens: int
    opened_version: int
    opened_at: float
    redrive_of: str
    batch_step: int
    is_over: bool
    prompt: str
    samples: _containers.RepeatedCompositeFieldContainer[GroupSample]
    def __init__(self, group_id: _Optional[str] = ..., prompt_id: _Optional[str] = ..., kind: _Optional[str] = ..., domain: _Optional[str] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., window_tokens: _Optional[int] = ..., opened_version: _Optional[int] = ..., opened_at: _Optional[float] = ..., redrive_of: _Optional[str] = ..., batch_step: _Optional[int] = ..., is_over: bool = ..., prompt: _Optional[str] = ..., samples: _Optional[_Iterable[_Union[GroupSample, _Mapping]]] = ...) -> None: ...

class ListGroupsRequest(_message.Message):
    __slots__ = ("run_id", "prompt_id", "limit", "after")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    prompt_id: str
    limit: int
    after: str
    def __init__(self, run_id: _Optional[str] = ..., prompt_id: _Optional[str] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class GroupRecord(_message.Message):
    __slots__ = ("group_id", "prompt_id", "kind", "domain", "opened_version", "opened_at", "size", "is_over", "samples")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    OPENED_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPENED_AT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    IS_OVER_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    prompt_id: str
    kind: str
    domain: str
    opened_version: int
    opened_at: float
    size: int
    is_over: bool
    samples: _containers.RepeatedCompositeFieldContainer[SampleRecord]
    def __init__(self, group_id: _Optional[str] = ..., prompt_id: _Optional[str] = ..., kind: _Optional[str] = ..., domain: _Optional[str] = ..., opened_version: _Optional[int] = ..., opened_at: _Optional[float] = ..., size: _Optional[int] = ..., is_over: bool = ..., samples: _Optional[_Iterable[_Union[SampleRecord, _Mapping]]] = ...) -> None: ...

class ListGroupsReply(_message.Message):
    __slots__ = ("groups", "next")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[GroupRecord]
    next: str
    def __init__(self, groups: _Optional[_Iterable[_Union[GroupRecord, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class ReadLedgerRequest(_message.Message):
    __slots__ = ("run_id", "limit", "after")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    limit: int
    after: str
    def __init__(self, run_id: _Optional[str] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class LedgerCommit(_message.Message):
    __slots__ = ("lineage", "step", "batch_id", "num_samples", "at", "stands")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    STANDS_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    step: int
    batch_id: str
    num_samples: int
    at: float
    stands: bool
    def __init__(self, lineage: _Optional[str] = ..., step: _Optional[int] = ..., batch_id: _Optional[str] = ..., num_samples: _Optional[int] = ..., at: _Optional[float] = ..., stands: bool = ...) -> None: ...

class LedgerLineage(_message.Message):
    __slots__ = ("lineage", "parent", "forked_at", "at")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FORKED_AT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    parent: str
    forked_at: int
    at: float
    def __init__(self, lineage: _Optional[str] = ..., parent: _Optional[str] = ..., forked_at: _Optional[int] = ..., at: _Optional[float] = ...) -> None: ...

class LedgerRollback(_message.Message):
    __slots__ = ("epoch", "from_lineage", "first_step", "last_step", "became", "num_samples", "at")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FROM_LINEAGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    BECAME_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    from_lineage: str
    first_step: int
    last_step: int
    became: str
    num_samples: int
    at: float
    def __init__(self, epoch: _Optional[int] = ..., from_lineage: _Optional[str] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ..., became: _Optional[str] = ..., num_samples: _Optional[int] = ..., at: _Optional[float] = ...) -> None: ...

class LedgerConflict(_message.Message):
    __slots__ = ("sample_id", "kept", "refused", "detail", "at")
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    sample_id: str
    kept: _types_pb2.SampleState
    refused: _types_pb2.SampleState
    detail: str
    at: float
    def __init__(self, sample_id: _Optional[str] = ..., kept: _Optional[_Union[_types_pb2.SampleState, str]] = ..., refused: _Optional[_Union[_types_pb2.SampleState, str]] = ..., detail: _Optional[str] = ..., at: _Optional[float] = ...) -> None: ...

class OutstandingBatch(_message.Message):
    __slots__ = ("step", "num_groups")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_GROUPS_FIELD_NUMBER: _ClassVar[int]
    step: int
    num_groups: int
    def __init__(self, step: _Optional[int] = ..., num_groups: _Optional[int] = ...) -> None: ...

class ReadLedgerReply(_message.Message):
    __slots__ = ("commits", "next", "lineages", "rollbacks", "conflicts", "batches", "num_commits", "num_conflicts")
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    LINEAGES_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    NUM_COMMITS_FIELD_NUMBER: _ClassVar[int]
    NUM_CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    commits: _containers.RepeatedCompositeFieldContainer[LedgerCommit]
    next: str
    lineages: _containers.RepeatedCompositeFieldContainer[LedgerLineage]
    rollbacks: _containers.RepeatedCompositeFieldContainer[LedgerRollback]
    conflicts: _containers.RepeatedCompositeFieldContainer[LedgerConflict]
    batches: _containers.RepeatedCompositeFieldContainer[OutstandingBatch]
    num_commits: int
    num_conflicts: int
    def __init__(self, commits: _Optional[_Iterable[_Union[LedgerCommit, _Mapping]]] = ..., next: _Optional[str] = ..., lineages: _Optional[_Iterable[_Union[LedgerLineage, _Mapping]]] = ..., rollbacks: _Optional[_Iterable[_Union[LedgerRollback, _Mapping]]] = ..., conflicts: _Optional[_Iterable[_Union[LedgerConflict, _Mapping]]] = ..., batches: _Optional[_Iterable[_Union[OutstandingBatch, _Mapping]]] = ..., num_commits: _Optional[int] = ..., num_conflicts: _Optional[int] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("id", "queue", "group_id", "sample_id", "reason", "num_deliveries", "at")
    ID_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    queue: str
    group_id: str
    sample_id: str
    reason: str
    num_deliveries: int
    at: float
    def __init__(self, id: _Optional[str] = ..., queue: _Optional[str] = ..., group_id: _Optional[str] = ..., sample_id: _Optional[str] = ..., reason: _Optional[str] = ..., num_deliveries: _Optional[int] = ..., at: _Optional[float] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("run_id", "limit")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    limit: int
    def __init__(self, run_id: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListDeadLettersReply(_message.Message):
    __slots__ = ("letters",)
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    def __init__(self, letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ...) -> None: ...

class RedriveDeadLettersRequest(_message.Message):
    __slots__ = ("run_id", "ids")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run_id: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RedriveDeadLettersReply(_message.Message):
    __slots__ = ("num_redriven",)
    NUM_REDRIVEN_FIELD_NUMBER: _ClassVar[int]
    num_redriven: int
    def __init__(self, num_redriven: _Optional[int] = ...) -> None: ...
