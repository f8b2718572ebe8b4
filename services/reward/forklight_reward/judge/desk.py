"""One request to the judge, from the task's specification to a score with its parts.

  constraints -> calibration of the group's policy version -> reference -> engine -> offset -> the watch

A constraint that does not hold ends it: quality is worth nothing then, and nobody is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forklight_reward.judge.constraints import unmet
from forklight_reward.judge.contract import Judgement
from forklight_reward.judge.engines import Judges
from forklight_reward.judge.frozen import FrozenAnswers
from forklight_reward.judge.keeper import CalibrationKeeper
from forklight_reward.judge.prompt import Question
from forklight_reward.judge.proof import Prover
from forklight_reward.judge.recalibration import Calibration, Level, nearest_reference
from forklight_reward.judge.spec import JudgeSpec, Mode, parse_judge_spec
from forklight_reward.judge.watch import JudgeWatch, Seen, length_of
from forklight_reward.verifier.extract import final_part


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is to be judged."""

    prompt: str
    reference: str
    response: str
    spec_json: str = ""
    group_id: str = ""
    sample_id: str = ""
    opened_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the judge says of it. Without a score it abstained."""

    score: float | None
    grade: int
    evidence: str
    engine: str
    calibration: Calibration
    parts: Mapping[str, float] = field(default_factory=dict)
    fails: bool = False
    """A rule says that it is wrong."""


class JudgeDesk:
    """All that one judge process answers with."""

    def __init__(
        self,
        judges: Judges,
        keeper: CalibrationKeeper,
        prover: Prover,
        watch: JudgeWatch,
        frozen: FrozenAnswers,
    ) -> None:
        self.judges = judges
        self.keeper = keeper
        self.prover = prover
        self.watch = watch
        self.frozen = frozen
        self.num_running = 0

    async def judge(self, subject: Subject, timeout_s: float) -> Ruling:
        """A ruling, or an error of the tree when there is none to be had."""
        self.num_running += 1
        try:
            return await self._judge(subject, timeout_s)
        finally:
            self.num_running -= 1

    async def _judge(self, subject: Subject, timeout_s: float) -> Ruling:
        spec = parse_judge_spec(subject.spec_json)
        calibration = await self._calibration(subject)
        engine = self.judges.engine(spec.mode, calibration.variant)
        answer = final_part(subject.response).strip()
        failed = unmet(spec.constraints, answer)
        parts = {"constraints": float(not failed)} if spec.constraints else {}
        if failed:
            return Ruling(
                score=0.0,
                grade=0,
                evidence=f"constraints not met: {'; '.join(failed)}",
                engine=engine.version,
                calibration=calibration,
                parts=parts,
                fails=True,
            )
        if calibration.level is Level.OFF:
            evidence = (
                "the judge is switched off: it pays for length whatever was tried; see the run's events"
            )
            return Ruling(
                score=None, grade=0, evidence=evidence, engine=engine.version, calibration=calibration
            )
        self.prover.require(engine)
        case = Case(
            subject=subject,
            mode=spec.mode or self.judges.mode,
            reference=choose_reference(subject.reference, spec, calibration, length_of(answer)),
            answer=answer,
            calibration=calibration,
        )
        judgement = await engine.judge(
            prompt=subject.prompt, reference=case.reference, answer=answer, timeout_s=timeout_s
        )
        self.watch.count(engine, judgement)
        self.watch.add(case.seen(judgement))
        score = judgement.score
        if score is not None:
            self.frozen.offer(case.question, case.mode, score)
            parts |= {"judge_raw": score, "length_offset": -case.offset}
        return Ruling(
            score=None if score is None else score - case.offset,
            grade=judgement.grade or 0,
            evidence=judgement.evidence,
            engine=engine.version,
            calibration=calibration,
            parts=parts if score is not None else {},
        )

    async def _calibration(self, subject: Subject) -> Calibration:
        if not subject.group_id:
            return await self.keeper.newest_of_all()
        return await self.keeper.of_version(subject.opened_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A subject and what it is judged with."""

    subject: Subject
    mode: Mode
    reference: str
    answer: str
    calibration: Calibration

    @property
    def question(self) -> Question:
        """For the padding probe."""
        return Question(task=self.subject.prompt, reference=self.reference, candidate=self.answer)

    @property
    def offset(self) -> float:
        """To be taken off the score."""
        return offset_of(self.calibration, self.mode, self.reference, self.answer)

    def seen(self, judgement: Judgement) -> Seen:
        """For the watch."""
        subject = self.subject
        return Seen(
            group_id=subject.group_id,
            sample_id=subject.sample_id,
            version=subject.opened_version,
            reference=subject.reference,
            response=subject.response,
            judgement=judgement,
            length=length_of(self.answer),
            offset=self.offset,
            calibration=self.calibration.version,
        )


def offset_of(calibration: Calibration, mode: Mode, reference: str, answer: str) -> float:
    """Of a comparison it counts from the reference answer: a truth has no length that answers should have."""
    against = length_of(final_part(reference).strip()) if mode is Mode.PAIRWISE else None
    return calibration.offset(length_of(answer), against)


def choose_reference(gold: str, spec: JudgeSpec, calibration: Calibration, length: float) -> str:
    """The task's own; of a comparison at level 3, of all it has the one nearest in length."""
    pool: Sequence[str] = [gold, *spec.references] if gold.strip() else list(spec.references)
    if spec.mode is Mode.FIVE_GRADES or not pool:
        return gold
    if not calibration.wants_nearest_reference:
        return pool[0]
    return pool[nearest_reference(length, [length_of(each) for each in pool])]
