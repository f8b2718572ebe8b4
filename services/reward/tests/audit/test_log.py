"""The audit log: every verdict one line, whatever the disk does, and the way back from a line."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from forklight.v1 import reward_pb2, types_pb2
from forklight_core.blobs import MemoryBlobStore
from forklight_core.errors import InvalidInputError, NotFoundError
from forklight_core.wire import Session
from forklight_reward.adapters.memory import LocalVerifier
from forklight_reward.audit.check import check_folder
from forklight_reward.audit.evidence import MOST_BYTES, EvidenceStore, bound, reference_of
from forklight_reward.audit.find import find_verdicts
from forklight_reward.audit.log import AuditLimits, AuditLog, Entry
from forklight_reward.audit.recall import recall_outcomes
from forklight_reward.audit.record import read_verdict
from forklight_reward.audit.replay import Archive, replay
from forklight_reward.front.fleet import fleet_of
from forklight_reward.front.known import KnownOutcomes
from forklight_reward.front.scorer import Scorer
from forklight_reward.ports import Outcome, Part, Status, Tier, Usage
from forklight_reward.rehearsal import NoSandbox, TaskMaker, local_scorer, math_spec, spec_of

RIGHT = r"<think>6 * 7</think> \boxed{42}"
WRONG = r"<think>6 * 7</think> \boxed{41}"


class CountingSandbox:
    """Passes programs that print 42, and counts; first fails as often as it is told to."""

    def __init__(self, *failures: Status) -> None:
        self.num_calls = 0
        self.failures = list(failures)

    async def execute(
        self,
        *,
        envelope: types_pb2.Envelope,
        spec_json: str,
        source: str,
        session: Session | None = None,
        timeout_s: float,
    ) -> Outcome:
        self.num_calls += 1
        await asyncio.sleep(0.01)
        if self.failures:
            return Outcome(status=self.failures.pop(0), parts={}, evidence="no", worker="sandbox")
        is_right = "42" in source
        return Outcome(
            status=Status.OK if is_right else Status.WRONG,
            parts={Part.CORRECT: float(is_right)},
            evidence="ran",
            worker="sandbox",
            worker_version="sandbox/9",
            tier=Tier.JAIL,
            usage=Usage(cpu_ms=7, wall_ms=9),
            detail="printed: " + source,
        )


@contextmanager
def opened(folder: Path, *, limits: AuditLimits | None = None) -> Iterator[AuditLog]:
    log = AuditLog(folder, run_id="rehearsal", pod="reward-0", limits=limits or AuditLimits())
    log.open()
    try:
        yield log
    finally:
        log.close()


def audited(tasks: TaskMaker, audit: AuditLog, **parts: object) -> Scorer:
    return replace(local_scorer(tasks, **parts), audit=audit)  # type: ignore[arg-type]


def code(tasks: TaskMaker, source: str) -> types_pb2.ScoringTask:
    return tasks.task(f"```python\n{source}\n```\n", spec=spec_of("code", spec_json="{}"))


async def test_every_verdict_has_one_line_that_says_all_of_it(tasks: TaskMaker, tmp_path: Path) -> None:
    with opened(tmp_path) as audit:
        scorer = audited(tasks, audit, sandbox=CountingSandbox())
        broken = tasks.task(RIGHT, spec=spec_of("poetry"))
        made = [tasks.task(RIGHT), tasks.task(WRONG), code(tasks, "print(42)"), broken]
        verdicts = await asyncio.gather(*(scorer.score_task(task, attempt=1) for task in made))
    (report,) = check_folder(tmp_path)
    assert (report.state, report.lines["verdict"]) == ("closed", len(made))
    for verdict in verdicts:
        (found,) = find_verdicts(tmp_path, verdict.envelope.sample_id)
        stored = read_verdict(found.body)
        assert stored.key == verdict.key and len(verdict.key) == 64
        assert stored.score == (verdict.score if verdict.HasField("score") else None)
        assert verdict.mask is (stored.score is None)
        assert stored.parts == {part.name: part.value for part in verdict.parts}
    ran = verdicts[2]
    assert (ran.usage.cpu_ms, ran.tier, dict(ran.versions)) == (7, "jail", {"sandbox": "sandbox/9"})
    assert EvidenceStore(tmp_path / "evidence").get(ran.evidence_ref) == b"printed: print(42)\n"
    with pytest.raises(NotFoundError):
        find_verdicts(tmp_path, "f" * 64)
    with pytest.raises(InvalidInputError, match="neither a key"):
        find_verdicts(tmp_path, "abc")


async def test_the_same_answer_is_judged_once_even_after_a_restart(tasks: TaskMaker, tmp_path: Path) -> None:
    sandbox = CountingSandbox()
    with opened(tmp_path) as audit:
        scorer = audited(tasks, audit, sandbox=sandbox)
        group = [code(tasks, "print(42)") for _ in range(8)]
        first = await asyncio.gather(*(scorer.score_task(task, attempt=1) for task in group))
        again = await scorer.score_task(group[3], attempt=2)
        other = await scorer.score_task(code(tasks, "print(41)"), attempt=1)
    assert sandbox.num_calls == 2
    assert {verdict.key for verdict in (*first, again)} == {first[0].key} != {other.key}
    assert [verdict.reused for verdict in first].count(False) == 1 and again.reused
    assert again.evidence_ref == first[0].evidence_ref
    known = KnownOutcomes()
    assert recall_outcomes(tmp_path, known) == 2
    scorer = replace(local_scorer(tasks, sandbox=sandbox), known=known)
    await scorer.score_task(code(tasks, "print(1)"), attempt=1)  # the worker says who it is
    assert (await scorer.score_task(group[0], attempt=3)).reused
    assert sandbox.num_calls == 3


@pytest.mark.parametrize("failure", [Status.INFRA_ERROR, Status.ABSTAIN])
async def test_failures_are_asked_again_and_never_kept(
    failure: Status, tasks: TaskMaker, tmp_path: Path
) -> None:
    sandbox = CountingSandbox(failure, failure, failure)
    with opened(tmp_path) as audit:
        scorer = audited(tasks, audit, sandbox=sandbox)
        task = code(tasks, "print(42)")
        failed = await scorer.score_task(task, attempt=1)
        assert (failed.mask, failed.HasField("score"), failed.num_attempts) == (True, False, 3)
        scored = await scorer.score_task(task, attempt=2)
    assert (scored.mask, scored.score, scored.reused) == (False, 1.0, False)
    known = KnownOutcomes()
    assert recall_outcomes(tmp_path, known) == 1


async def test_a_stored_verdict_is_replayed_from_its_blobs(tasks: TaskMaker, tmp_path: Path) -> None:
    with opened(tmp_path / "verdicts") as audit:
        scorer = audited(tasks, audit)
        task = tasks.task(RIGHT)
        verdict = await scorer.score_task(task, attempt=1)
    stored = read_verdict(find_verdicts(tmp_path / "verdicts", verdict.key[:10])[-1].body)
    archive = Archive(run_folder=tmp_path, blobs=tasks.blobs, evidence=audit.evidence)
    fleet = fleet_of([LocalVerifier()], [NoSandbox()], [scorer.fleet.routers[0].judge])
    same = await replay(stored, archive, fleet, 10.0)
    assert same.is_same and not same.other_version
    lie = replace(stored, score=0.0, parts={**stored.parts, "correct": 0.0})
    other = await replay(lie, archive, fleet, 10.0)
    assert set(other.differs) == {"score", "correct"}
    tasks.blobs.delete(task.trajectory.payload.id)
    with pytest.raises(NotFoundError, match="BLOB_MARGIN"):
        await replay(stored, archive, fleet, 10.0)


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_holds_up_no_verdict_and_loses_no_line_it_can_keep(
    tasks: TaskMaker, tmp_path: Path
) -> None:
    with opened(tmp_path) as audit:
        scorer = audited(tasks, audit)
        await scorer.score_task(tasks.task(RIGHT), attempt=1)
        with full_disk(2500):
            verdicts = [await scorer.score_task(tasks.task(RIGHT), attempt=1) for _ in range(5)]
        assert all(verdict.score == 1.0 for verdict in verdicts)
        await scorer.score_task(tasks.task(WRONG), attempt=1)
    (report,) = check_folder(tmp_path)
    assert (report.state, report.lines["verdict"], report.num_lost) == ("closed", 7, 0)


async def test_what_the_bound_gives_up_is_counted_in_the_chain(tmp_path: Path) -> None:
    with opened(tmp_path, limits=AuditLimits(most_waiting=3)) as audit:
        await audit.add(Entry(body={"type": "verdict", "number": 0}))
        with full_disk(1):
            for number in range(1, 11):
                await audit.add(Entry(body={"type": "verdict", "number": number}))
    (report,) = check_folder(tmp_path)
    assert (report.state, report.lines["verdict"], report.num_lost) == ("closed", 4, 7)


async def test_full_files_follow_each_other_and_fronts_share_nothing(tmp_path: Path) -> None:
    limits = AuditLimits(shard_bytes=600)
    logs = [AuditLog(tmp_path, run_id="run", pod=pod, limits=limits) for pod in ("a", "b", "a-b")]
    for log in logs:
        log.open()
    for number in range(12):
        await asyncio.gather(*(log.add(Entry(body={"type": "verdict", "n": number})) for log in logs))
    for log in logs:
        log.close()
    reports = check_folder(tmp_path)
    assert sum(report.lines["verdict"] for report in reports) == 36
    assert {report.state for report in reports} == {"closed"}
    assert sum(report.follows is None for report in reports) == 3


def test_evidence_is_bounded_with_its_cut_marked_and_proven_when_read(tmp_path: Path) -> None:
    data = bound("\u00e9" * MOST_BYTES)
    assert len(data) <= MOST_BYTES and data.endswith(b"[... cut: %d bytes in all]" % (2 * MOST_BYTES))
    data.decode()
    store = EvidenceStore(tmp_path)
    store.put(data)
    assert store.get(reference_of(data)) == data
    with pytest.raises(InvalidInputError):
        store.get("b3:../../etc/passwd")


async def test_a_request_at_the_door_is_kept_and_replayed_without_blobs(
    tasks: TaskMaker, tmp_path: Path
) -> None:
    with opened(tmp_path / "verdicts") as audit:
        scorer = audited(tasks, audit)
        request = reward_pb2.ScoreRequest(
            envelope=tasks.task(RIGHT).envelope, spec=math_spec(), response=WRONG
        )
        verdict = await scorer.score_request(request)
        huge = reward_pb2.ScoreRequest(envelope=request.envelope, spec=math_spec(), response="x" * 2**20)
        lost = await scorer.score_request(huge)
    archive = Archive(run_folder=tmp_path, blobs=MemoryBlobStore(), evidence=audit.evidence)
    fleet = fleet_of([LocalVerifier()], [NoSandbox()], [scorer.fleet.routers[0].judge])
    stored, dropped = (
        read_verdict(find_verdicts(tmp_path / "verdicts", each.key)[0].body) for each in (verdict, lost)
    )
    assert (await replay(stored, archive, fleet, 10.0)).is_same
    with pytest.raises(NotFoundError, match="too large"):
        await replay(dropped, archive, fleet, 10.0)
