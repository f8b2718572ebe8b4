"""From an outcome to a reward, and from failures to verdicts without a score."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from forklight.v1 import reward_pb2, types_pb2
from forklight_core.errors import BusyError, ConfigError, DeadlineError, ForklightError, UnavailableError
from forklight_core.runfile import RunFile
from forklight_reward.adapters.memory import LocalSandbox, LocalVerifier
from forklight_reward.front.program import extract_program
from forklight_reward.front.quick import QuickVerifier
from forklight_reward.front.reward import Length, RewardPolicy, overlong_penalty, policy_of, zone_of
from forklight_reward.judge.rule import RuleJudge
from forklight_reward.ports import Outcome, Part, Status
from forklight_reward.rehearsal import TaskMaker, local_scorer, math_spec
from forklight_reward.sandbox.runner import Runner

RIGHT = r"<think>6 * 7</think> \boxed{42}"
WRONG = r"<think>6 * 7</think> \boxed{41}"


class FailingVerifier:
    """Raises or returns what it is given, then verifies."""

    def __init__(self, first: Sequence[ForklightError | Outcome]) -> None:
        self.first = list(first)
        self.num_calls = 0

    async def verify(
        self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
    ) -> Outcome:
        self.num_calls += 1
        if self.first:
            thing = self.first.pop(0)
            if isinstance(thing, ForklightError):
                raise thing
            return thing
        return await LocalVerifier().verify(
            envelope=envelope, gold=gold, response=response, timeout_s=timeout_s
        )


def parts_of(verdict: types_pb2.Verdict) -> dict[str, float]:
    return {part.name: part.value for part in verdict.parts}


@pytest.mark.parametrize(
    ("parts", "score"),
    [
        ({Part.CORRECT: 1.0, Part.FORMAT: 1.0}, 1.2),
        ({Part.CORRECT: 1.0, Part.FORMAT: 0.0}, 1.0),
        ({Part.CORRECT: 0.0, Part.FORMAT: 1.0}, 0.0),
        ({Part.JUDGE: 0.75}, 0.75),
    ],
)
def test_format_counts_only_when_the_answer_is_right(parts: dict[Part, float], score: float) -> None:
    outcome = Outcome(status=Status.OK, parts=parts, evidence="", worker="test")
    policy = RewardPolicy(correct_weight=1.0, format_weight=0.2)
    composed, named = policy.compose(outcome, Length(num_response_tokens=0))
    assert composed == pytest.approx(score)
    assert named == parts


@pytest.mark.parametrize(
    ("num_tokens", "penalty"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (120, -1.0)]
)
def test_overlong_penalty_falls_over_the_end_of_the_window(num_tokens: int, penalty: float) -> None:
    assert overlong_penalty(num_tokens, 100, 20) == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("window", "zone"), [(40960, 4096), (8192, 4096), (8191, 4095), (4096, 2048), (1, 0)]
)
def test_the_soft_zone_is_never_more_than_half_of_the_window(window: int, zone: int) -> None:
    assert zone_of(window, 4096) == zone


def test_policy_refuses_a_zone_that_no_window_has_room_for() -> None:
    raw = {"sampling": {"max_new_tokens": 64}, "length": {"windows": [512, 2048]}}
    with pytest.raises(ConfigError, match=r"must not exceed the largest of length\.windows \(2048\)"):
        policy_of(RunFile.model_validate(raw))
    fitting = policy_of(RunFile.model_validate(raw | {"recipe": {"overlong_tokens": 2048}}))
    assert (fitting.window_tokens, fitting.zone_tokens) == (512, 2048)


def test_policy_refuses_a_zone_that_covers_the_window() -> None:
    raw = {"sampling": {"max_new_tokens": 64}}
    with pytest.raises(ConfigError, match="overlong_tokens"):
        policy_of(RunFile.model_validate(raw))
    without = policy_of(RunFile.model_validate(raw | {"recipe": {"overlong_penalty": False}}))
    assert without.zone_tokens == 0
    default = policy_of(RunFile())
    assert (default.window_tokens, default.zone_tokens) == (40960, 4096)


async def test_right_and_wrong_answers_get_their_reward_and_parts(tasks: TaskMaker) -> None:
    scorer = local_scorer(tasks, policy=RewardPolicy(format_weight=0.5))
    right = await scorer.score_task(tasks.task(RIGHT), attempt=2)
    assert (right.status, right.score) == (types_pb2.VERDICT_STATUS_OK, 1.5)
    assert parts_of(right) == {"correct": 1.0, "format": 1.0}
    assert (right.envelope.attempt, right.num_attempts, right.worker) == (2, 1, "verifier")
    assert "math-rules/" in right.worker_version
    wrong = await scorer.score_task(tasks.task(WRONG), attempt=1)
    assert (wrong.status, wrong.score) == (types_pb2.VERDICT_STATUS_WRONG, 0.0)
    assert wrong.HasField("score")
    assert "42" in wrong.evidence


async def test_overlong_part_counts_in_training_and_not_in_evaluation(tasks: TaskMaker) -> None:
    scorer = local_scorer(tasks, policy=RewardPolicy(window_tokens=100, zone_tokens=20))
    task = tasks.task(RIGHT, num_tokens=90)
    verdict = await scorer.score_task(task, attempt=1)
    assert verdict.score == pytest.approx(0.5)
    assert parts_of(verdict)["overlong"] == pytest.approx(-0.5)
    task.trajectory.purpose = types_pb2.PURPOSE_EVALUATE
    assert (await scorer.score_task(task, attempt=1)).score == 1.0


@pytest.mark.parametrize(
    ("window", "penalty"), [(0, -0.5), (100, -0.5), (200, 0.0), (96, -0.7), (30, -1.0), (90, -1.0)]
)
async def test_overlong_is_measured_against_the_window_of_the_sample(
    tasks: TaskMaker, window: int, penalty: float
) -> None:
    scorer = local_scorer(tasks, policy=RewardPolicy(window_tokens=100, zone_tokens=20))
    task = tasks.task(RIGHT, num_tokens=90)
    task.window_tokens = window
    for _ in range(2):  # scored again, for example by another front door, it is the same
        assert parts_of(await scorer.score_task(task, attempt=1))["overlong"] == pytest.approx(penalty)


@pytest.mark.parametrize("error", [UnavailableError("away"), DeadlineError("late"), BusyError("full")])
async def test_sample_is_scored_when_the_worker_comes_back(error: ForklightError, tasks: TaskMaker) -> None:
    verifier = FailingVerifier([error, error])
    verdict = await local_scorer(tasks, verifier=verifier).score_task(tasks.task(RIGHT), attempt=1)
    assert (verdict.status, verdict.score) == (types_pb2.VERDICT_STATUS_OK, 1.0)
    assert verifier.num_calls == 3


@pytest.mark.parametrize("error", [UnavailableError("away"), DeadlineError("late"), BusyError("full")])
async def test_failure_that_stays_is_never_a_score(error: ForklightError, tasks: TaskMaker) -> None:
    scorer = local_scorer(tasks, verifier=FailingVerifier([error] * 1000))
    verdict = await scorer.score_task(tasks.task(RIGHT), attempt=1)
    assert verdict.status == types_pb2.VERDICT_STATUS_INFRA_ERROR
    assert not verdict.HasField("score")
    assert (verdict.num_attempts, len(verdict.parts)) == (3, 0)
    assert str(error) in verdict.evidence


async def test_worker_that_reports_failure_or_abstains_is_asked_again(tasks: TaskMaker) -> None:
    outcomes = [
        Outcome(status=status, parts={}, evidence="x", worker="w")
        for status in (Status.ABSTAIN, Status.INFRA_ERROR)
    ]
    verdict = await local_scorer(tasks, verifier=FailingVerifier(outcomes)).score_task(
        tasks.task(RIGHT), attempt=1
    )
    assert (verdict.score, verdict.num_attempts) == (1.0, 3)


async def test_abstention_that_stays_has_no_score(tasks: TaskMaker) -> None:
    spec = types_pb2.TaskSpec(schema_version=1, kind="judge", prompt="p", gold="")
    verdict = await local_scorer(tasks).score_task(tasks.task("text", spec=spec), attempt=1)
    assert verdict.status == types_pb2.VERDICT_STATUS_ABSTAIN
    assert not verdict.HasField("score")
    assert verdict.num_attempts == 3


@pytest.mark.parametrize(
    ("reference", "answer", "grade"),
    [
        ("the cat sat", "The cat sat.", 5),
        ("the cat sat on it", "the cat sat on them", 4),
        ("a b c d", "a b x y", 3),
        ("a b c d", "a x y z", 2),
        ("a b", "x y", 1),
        ("a b", "", 1),
        ("", "a", None),
    ],
)
async def test_rule_judge_grades_by_overlap(reference: str, answer: str, grade: int | None) -> None:
    judgement = await RuleJudge().judge(prompt="", reference=reference, answer=answer, timeout_s=1)
    assert judgement.grade == grade
    assert judgement.score == (None if grade is None else (grade - 1) / 4)


async def test_judge_task_is_scored_on_what_follows_the_thinking(tasks: TaskMaker) -> None:
    spec = types_pb2.TaskSpec(schema_version=1, kind="judge", prompt="p", gold="blue sky")
    verdict = await local_scorer(tasks).score_task(
        tasks.task("<think>red</think> blue sky", spec=spec), attempt=1
    )
    assert (verdict.score, parts_of(verdict)) == (1.0, {"judge": 1.0})


async def test_code_task_runs_the_last_program(tasks: TaskMaker, runner: Runner) -> None:
    spec_json = json.dumps({"mode": "stdio", "tests": [{"stdin": "20 22", "stdout": "42"}]})
    spec = types_pb2.TaskSpec(schema_version=1, kind="code", spec_json=spec_json)
    scorer = local_scorer(tasks, sandbox=LocalSandbox(runner))
    text = "<think>```python\nprint(0)\n```</think>\n```python\nprint(sum(map(int, input().split())))\n```\n"
    verdict = await scorer.score_task(tasks.task(text, spec=spec), attempt=1)
    assert (verdict.score, verdict.worker) == (1.0, "sandbox")
    none = await scorer.score_task(tasks.task("print(42)", spec=spec), attempt=1)
    assert (none.status, none.score) == (types_pb2.VERDICT_STATUS_WRONG, 0.0)


@pytest.mark.parametrize(
    ("response", "source"),
    [
        ("```python\na\n```", "a\n"),
        ("```py\na\n```\n```\nb\n```", "b\n"),
        ("```python\na\n```\n```json\n{}\n```", "a\n"),
        ("```python\na", None),
        ("<think>```python\na\n```</think>", None),
        ("a", None),
    ],
)
def test_last_closed_python_fence_is_the_program(response: str, source: str | None) -> None:
    assert extract_program(response) == source


async def test_damaged_tasks_get_a_verdict_without_a_score_at_once(tasks: TaskMaker) -> None:
    lost = tasks.task(RIGHT)
    lost.trajectory.payload.id = "b3:" + "0" * 64
    foreign = tasks.task(RIGHT)
    foreign.trajectory.payload.CopyFrom(tasks.task(RIGHT).trajectory.payload)
    garbage = tasks.task(RIGHT)
    garbage.spec.CopyFrom(tasks.put(b"\xff\xff"))
    old = tasks.task(RIGHT)
    old.envelope.schema_version = 99
    other_run = tasks.task(RIGHT)
    other_run.envelope.run_id = "other"
    old_spec = math_spec()
    old_spec.schema_version = 99
    cases = {
        "NotFoundError": lost,
        "DataLossError": foreign,
        "are no TaskSpec": garbage,
        "schema version 99": old,
        "belongs to run 'other'": other_run,
        "task of": tasks.task(RIGHT, spec=old_spec),
        "unknown task kind": tasks.task(
            RIGHT, spec=types_pb2.TaskSpec(schema_version=1, kind="poetry", gold="42")
        ),
        "no reference answer": tasks.task(RIGHT, spec=math_spec(gold=" ")),
    }
    scorer = local_scorer(tasks)
    for words, task in cases.items():
        verdict = await scorer.score_task(task, attempt=1)
        assert verdict.status == types_pb2.VERDICT_STATUS_INFRA_ERROR, words
        assert not verdict.HasField("score"), words
        assert words in verdict.evidence, verdict.evidence
        assert verdict.num_attempts == 1, words
        assert verdict.envelope.sample_id == task.envelope.sample_id


async def test_score_call_knows_no_tokens_but_punishes_a_full_window(tasks: TaskMaker) -> None:
    scorer = local_scorer(tasks, policy=RewardPolicy(window_tokens=100, zone_tokens=20))
    envelope = tasks.task(RIGHT).envelope
    request = reward_pb2.ScoreRequest(envelope=envelope, spec=math_spec(), response=RIGHT)
    assert (await scorer.score_request(request)).score == 1.0
    request.finish_reason = types_pb2.FINISH_REASON_LENGTH
    assert (await scorer.score_request(request)).score == 0.0


async def test_only_what_needs_symbolic_mathematics_goes_to_the_verifier() -> None:
    behind = FailingVerifier([])
    verifier = QuickVerifier(behind=behind)

    async def verify(gold: str, response: str) -> Outcome:
        envelope = types_pb2.Envelope(sample_id="r/g00000000/s000")
        return await verifier.verify(envelope=envelope, gold=gold, response=response, timeout_s=10.0)

    right, wrong = await verify("42", RIGHT), await verify("42", WRONG)
    silent = await verify("42", "no idea")
    assert (right.status, right.parts) == (Status.OK, {Part.CORRECT: 1.0, Part.FORMAT: 1.0})
    assert (wrong.status, wrong.parts) == (Status.WRONG, {Part.CORRECT: 0.0, Part.FORMAT: 1.0})
    assert (silent.status, silent.parts) == (Status.WRONG, {Part.CORRECT: 0.0, Part.FORMAT: 0.0})
    assert behind.num_calls == 0
    assert right.worker == "rules"
    symbolic = await verify(r"\frac{\sqrt{2}}{2}", r"<think>a</think> \boxed{\frac{1}{\sqrt{2}}}")
    assert symbolic.status is Status.OK
    assert behind.num_calls == 1
