"""Tasks and a front door inside one process: for tests of this room and of whoever needs a scored sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from forklight.v1 import types_pb2
from forklight_core import ids
from forklight_core.blobs import BlobStore, MemoryBlobStore
from forklight_core.wire import SCHEMA_VERSION, Session, TrajectoryArrays, pack_payload
from forklight_reward.adapters.memory import LocalJudge, LocalVerifier
from forklight_reward.front.attempts import Attempts
from forklight_reward.front.fleet import fleet_of
from forklight_reward.front.lanes import Lanes, Sorter
from forklight_reward.front.reward import RewardPolicy
from forklight_reward.front.scorer import Scorer
from forklight_reward.judge.rule import RuleJudge
from forklight_reward.ports import Judge, Outcome, Sandbox, Status, Verifier
from forklight_reward.worker import Desk, Score

RUN_ID = "rehearsal"
GOLD = "42"


def math_spec(gold: str = GOLD) -> types_pb2.TaskSpec:
    """A maths task."""
    return types_pb2.TaskSpec(schema_version=SCHEMA_VERSION, kind="math", prompt="6 * 7 = ?", gold=gold)


def spec_of(kind: str, *, gold: str = "", spec_json: str = "") -> types_pb2.TaskSpec:
    """A task of a kind."""
    return types_pb2.TaskSpec(schema_version=SCHEMA_VERSION, kind=kind, gold=gold, spec_json=spec_json)


def pack_text(sample: str, text: str) -> bytes:
    """A payload of four tokens that says `text`."""
    tokens, logprobs = np.arange(4, dtype=np.int32), np.zeros(4, dtype=np.float32)
    return pack_payload(
        TrajectoryArrays(
            sample_id=sample,
            prompt_ids=tokens,
            response_ids=tokens,
            logprobs=logprobs,
            raw_logprobs=logprobs,
            text=text,
            contract="rehearsal",
        )
    )


@dataclass(slots=True)
class TaskMaker:
    """Makes scoring tasks, one group each, and stores what they refer to."""

    blobs: BlobStore = field(default_factory=MemoryBlobStore)
    run_id: str = RUN_ID
    num_made: int = 0

    def put(self, data: bytes) -> types_pb2.BlobRef:
        """Store bytes."""
        reference = self.blobs.put(data)
        return types_pb2.BlobRef(id=reference.id, size_bytes=reference.size_bytes)

    def task(
        self, text: str, *, spec: types_pb2.TaskSpec | None = None, num_tokens: int = 4
    ) -> types_pb2.ScoringTask:
        """The task of a sample that said `text`; without a spec it is asked for 42."""
        group = ids.training_group_id(self.run_id, self.num_made)
        self.num_made += 1
        sample = ids.sample_id(group, 0)
        envelope = types_pb2.Envelope(
            schema_version=SCHEMA_VERSION,
            run_id=self.run_id,
            group_id=group,
            sample_id=sample,
            attempt=1,
            traceparent=ids.sample_traceparent(sample),
        )
        spec = spec or math_spec()
        trajectory = types_pb2.Trajectory(
            envelope=envelope,
            payload=self.put(pack_text(sample, text)),
            num_response_tokens=num_tokens,
            purpose=types_pb2.PURPOSE_TRAIN,
        )
        reference = self.put(spec.SerializeToString())
        return types_pb2.ScoringTask(envelope=envelope, trajectory=trajectory, kind=spec.kind, spec=reference)


class NoSandbox:
    """Port Sandbox where no program is expected: says that the machinery is missing."""

    async def execute(
        self,
        *,
        envelope: types_pb2.Envelope,
        spec_json: str,
        source: str,
        session: Session | None = None,
        timeout_s: float,
    ) -> Outcome:
        """Never a score."""
        return Outcome(
            status=Status.INFRA_ERROR, parts={}, evidence="no sandbox in this rehearsal", worker="sandbox"
        )


def local_scorer(
    tasks: TaskMaker,
    *,
    verifier: Verifier | None = None,
    sandbox: Sandbox | None = None,
    judge: Judge | None = None,
    policy: RewardPolicy | None = None,
    attempts: Attempts | None = None,
) -> Scorer:
    """A front door over parts of this process."""
    fleet = fleet_of(
        [verifier or LocalVerifier()], [sandbox or NoSandbox()], [judge or LocalJudge(RuleJudge())]
    )
    return Scorer(
        run_id=tasks.run_id,
        blobs=tasks.blobs,
        fleet=fleet,
        policy=policy or RewardPolicy(),
        attempts=attempts or Attempts(max_attempts=3, timeout_s=0.2),
    )


def local_desk(tasks: TaskMaker, score: Score, concurrency: int = 4) -> Desk:
    """The lines of a worker over tasks of this process."""
    return Desk(score=score, sorter=Sorter(tasks.blobs), lanes=Lanes(concurrency))
