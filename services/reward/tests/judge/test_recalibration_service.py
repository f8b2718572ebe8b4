"""Measures against length through a whole judge: its gRPC door, a chat endpoint over HTTP, a run folder."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from forklight.v1 import reward_pb2, types_pb2
from forklight_core.errors import UnavailableError
from forklight_reward.judge.canaries import QUESTIONS
from forklight_reward.judge.length_fit import Window, fit_length
from forklight_reward.judge.length_monitor import GROUPS_A_WINDOW
from forklight_reward.judge.recalibration import Calibration, Level, Recalibrator
from forklight_reward.judge.rule import overlap
from forklight_reward.judge.scripted import USUAL_CHARACTERS, Bias, ScriptedChat
from forklight_reward.judge.store import Book, CalibrationStore
from services.reward.tests.judge.chat_server import Body, ChatServer, Reply, follow
from services.reward.tests.judge.test_judge_service import Door, judging, openai

Start = Callable[[Callable[[Body], Reply]], ChatServer]
GROUP_SIZE = 2
MORE = "votes = 1\npadding_every = 0\n[sampling]\ngroup_size = 2"


def quality(candidate: str, reference: str) -> float:
    if "boxed" in candidate:
        return 0.6 if "{42}" in candidate else 0.25
    return overlap(reference, candidate)


def scripted(length: float) -> Callable[[Body], Reply]:
    return follow(ScriptedChat(Bias(length=length, noise=0.05), quality))


@dataclass(slots=True, kw_only=True)
class Policy:
    """Answers of a policy whose right ones are no longer than its wrong ones."""

    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    rows: list[tuple[str, float, bool, float]] = field(default_factory=list)
    """Group, log2 length, correctness, score as given out."""

    def answer(self, topic: float) -> tuple[str, bool]:
        is_right = bool(self.chance.random() < 0.5)
        size = USUAL_CHARACTERS * 2 ** float(self.chance.normal(topic, 1.0))
        box = "\\boxed{42}" if is_right else "\\boxed{41}"
        return "word " * max(0, int((size - len(box)) / 5)) + box, is_right

    def slope(self) -> float:
        """Of the scores given out so far."""
        names = {name: number for number, name in enumerate(dict.fromkeys(row[0] for row in self.rows))}
        fit = fit_length(
            Window(
                scores_N=np.array([row[3] for row in self.rows]),
                lengths_N=np.array([row[1] for row in self.rows]),
                correct_N=np.array([float(row[2]) for row in self.rows]),
                groups_N=np.array([names[row[0]] for row in self.rows], dtype=np.int64),
            )
        )
        assert fit is not None
        return fit.beta


async def judge_window(
    door: Door, policy: Policy, version: int, *, num_groups: int = GROUPS_A_WINDOW
) -> dict[str, set[str]]:
    """One window of groups opened at a policy version; which calibrations each group was judged under."""
    slots, under = asyncio.Semaphore(16), dict[str, set[str]]()

    async def judge(group: str, number: int, answer: str, is_right: bool) -> None:
        request = reward_pb2.JudgeRequest(
            envelope=types_pb2.Envelope(group_id=group, sample_id=f"{group}/{number}"),
            prompt=f"What is six times seven, {group}?",
            reference="42",
            response=f"<think>so</think>{answer}",
            opened_version=version,
        )
        async with slots:
            reply = await door.ask(request)
        under.setdefault(group, set()).add(reply.calibration)
        policy.rows.append((group, math.log2(len(answer)), is_right, reply.score))

    async with asyncio.TaskGroup() as tasks:
        for number in range(num_groups):
            topic = float(policy.chance.normal(0.0, 0.5))
            for sample in range(GROUP_SIZE):
                answer, is_right = policy.answer(topic)
                tasks.create_task(judge(f"v{version}-{number}", sample, answer, is_right))
    return under


async def until_book(folder: Path, condition: Callable[[Book], bool]) -> Book:
    """The book, once it says so."""
    deadline = time.monotonic() + 20
    while True:
        book = await asyncio.to_thread(CalibrationStore(folder).read)
        if condition(book):
            return book
        assert time.monotonic() < deadline, f"never happened: {book}"
        await asyncio.sleep(0.01)


def alarms_in(folder: Path) -> list[object]:
    """Whether it rang, window by window."""
    lines = (folder / "judge" / "log.jsonl").read_text().splitlines()
    return [row["alarm"] for row in map(json.loads, lines) if row["kind"] == "window"]


async def live(door: Door, folder: Path, policy: Policy, versions: range) -> list[str]:
    """A window a policy version; the calibration of each, of which a group has one."""
    seen = []
    for version in versions:
        under = await judge_window(door, policy, version)
        names = set.union(*under.values())
        assert len(names) == 1
        seen += names
        await until_book(folder, lambda book, done=version: book.memory.get("windows") == done)
    return seen


async def test_a_judge_that_pays_for_length_is_heard_and_corrected(
    start_server: Start, tmp_path: Path
) -> None:
    server, policy = start_server(scripted(0.1)), Policy()
    async with judging(tmp_path, openai(server, more=MORE)) as door:
        await door.until()
        seen = await live(door, tmp_path, policy, range(1, 2))
        assert policy.slope() > 0.07
        seen += await live(door, tmp_path, policy, range(2, 4))
    assert any(alarms_in(tmp_path)[:3])
    before = CalibrationStore(tmp_path).read()
    assert before.current.level is Level.OFFSET
    async with judging(tmp_path, openai(server, more=MORE)) as door:
        await door.until()
        late = await judge_window(door, Policy(), 1, num_groups=1)
        assert set.union(*late.values()) == {seen[0]}  # of a step before the restart
        seen += await live(door, tmp_path, policy, range(4, 8))
        policy.rows.clear()
        seen += await live(door, tmp_path, policy, range(8, 10))
    assert seen[3] == before.current.name  # the level outlived the restart
    assert len(set(seen)) > 6  # the offset was learned step by step
    assert abs(policy.slope()) < 0.02


async def test_an_honest_judge_is_left_alone(start_server: Start, tmp_path: Path) -> None:
    server = start_server(scripted(0.0))
    more = MORE.replace("padding_every = 0", "padding_every = 1\npadding_answers = 16")
    async with judging(tmp_path, openai(server, more=more)) as door:
        await door.until()
        seen = await live(door, tmp_path, Policy(), range(1, 2))
        await door.until(lambda: '"padding"' in (tmp_path / "judge" / "log.jsonl").read_text())
    lines = (tmp_path / "judge" / "log.jsonl").read_text().splitlines()
    probes = [row for row in map(json.loads, lines) if row["kind"] == "padding"]
    assert probes[0]["num_answers"] == 16
    assert abs(probes[0]["padding"]) < 0.05
    assert alarms_in(tmp_path) == [False]
    assert set(seen) == {"calibration/0 L0 0.0000 a doubling"}


def decide(folder: Path, level: Level, *, beta: float = 0.1) -> CalibrationStore:
    """As a judge that leads would have."""
    store = CalibrationStore(folder)
    ladder = replace(Recalibrator().state, pending=Calibration(level=level, beta=beta, anchor=6.0))
    known = store.read().current.version
    assert store.propose(ladder, {"levels": 1}, known=known) is not None
    return store


def request_of(
    answer: str, *, version: int, spec: object = None, group: str = "g"
) -> reward_pb2.JudgeRequest:
    return reward_pb2.JudgeRequest(
        envelope=types_pb2.Envelope(group_id=group, sample_id=f"{group}/{answer[:9]}"),
        prompt="Describe the sea.",
        reference="the sea is blue and wide",
        response=f"</think>{answer}",
        opened_version=version,
        spec_json=json.dumps(spec) if spec else "",
    )


async def test_two_judges_of_a_run_never_disagree_about_a_group(start_server: Start, tmp_path: Path) -> None:
    server = start_server(scripted(0.0))
    async with judging(tmp_path, openai(server)) as first, judging(tmp_path, openai(server)) as second:
        await first.until()
        await second.until()
        old = await first.ask(request_of("the sea", version=1))
        decide(tmp_path, Level.OFFSET)
        late = await second.ask(request_of("so wide", version=1))
        new = await second.ask(request_of("the sea", version=2, group="h"))
        same = await first.ask(request_of("so wide", version=2, group="h"))
    assert old.calibration == late.calibration == "calibration/0 L0 0.0000 a doubling"
    assert new.calibration == same.calibration == "calibration/1 L1 0.1000 a doubling"
    parts = {part.name: part.value for part in new.parts}
    assert parts["length_offset"] == pytest.approx(0.1 * (6 - math.log2(len("the sea"))))
    assert new.score == pytest.approx(parts["judge_raw"] + parts["length_offset"])


async def test_levels_change_the_prompt_and_the_reference(start_server: Start, tmp_path: Path) -> None:
    server = start_server(
        follow(ScriptedChat(quality=lambda answer, other: overlap("the sea is blue", answer)))
    )
    decide(tmp_path, Level.PROMPT)
    long, short = "the sea is blue " * 9, "blue sea"
    spec = {"mode": "pairwise", "references": [long, short]}
    known = {reference for _, reference in QUESTIONS}
    server = start_server(follow(ScriptedChat(quality=lambda answer, other: float(answer in known))))
    async with judging(tmp_path, openai(server)) as door:
        await door.until()

        async def shown(version: int, group: str) -> tuple[str, str]:
            """What the judge was asked, and by whom, once that one has passed the canaries."""
            deadline = time.monotonic() + 20
            while True:
                try:
                    reply = await door.ask(request_of("a wide sea", version=version, spec=spec, group=group))
                    asked = [str(body) for body in server.bodies if "a wide sea" in str(body)]
                    return asked[-1], reply.worker_version
                except UnavailableError as error:
                    assert "canaries" in str(error)
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)

        asked, judge = await shown(1, "g")
        assert "Length is worth nothing" in asked
        assert "the sea is blue and wide" in asked
        assert "pairwise/1 m prompt/1-length_neutral" in judge
        decide(tmp_path, Level.REFERENCE)
        asked, _ = await shown(2, "h")
        assert "blue sea" in asked
        assert "blue and wide" not in asked


async def test_a_judge_that_is_off_abstains_until_a_person_allows_it(
    start_server: Start, tmp_path: Path
) -> None:
    server = start_server(scripted(0.0))
    store = decide(tmp_path, Level.OFF)
    async with judging(tmp_path, openai(server, more='mode = "five_grades"')) as door:
        await door.until()
        off = await door.ask(request_of("the sea", version=1))
        assert off.status == types_pb2.VERDICT_STATUS_ABSTAIN
        assert not off.HasField("score")
        assert "switched off" in off.evidence
        store.allow_again()
        deadline = time.monotonic() + 20
        while True:
            try:
                again = await door.ask(request_of("the sea", version=1))
            except UnavailableError:  # the neutral prompt is being proven
                await asyncio.sleep(0.02)
                continue
            if again.HasField("score"):
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert "L2" in again.calibration
    assert store.read().current.level is Level.PROMPT  # the judge that leads has not put it back


@pytest.mark.parametrize(
    ("answer", "score"), [("the sea is blue and wide", 1.0), ("the sea is blue and wide and deep", 0.0)]
)
async def test_constraints_gate_quality_and_nobody_is_asked(
    start_server: Start, tmp_path: Path, answer: str, score: float
) -> None:
    server = start_server(follow(ScriptedChat()))
    spec = {"constraints": [{"rule": "words", "most": 6}, {"rule": "ascii"}]}
    async with judging(tmp_path, openai(server)) as door:
        await door.until()
        num_before = len(server.bodies)
        reply = await door.ask(request_of(answer, version=1, spec=spec))
    assert reply.score == score
    assert {part.name: part.value for part in reply.parts}["constraints"] == score
    assert (len(server.bodies) == num_before) is (score == 0.0)
    if not score:
        assert reply.status == types_pb2.VERDICT_STATUS_WRONG
        assert "words 0 to 6" in reply.evidence
