"""An engine over two processes says which one is lost, soon, and none outlives the other."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forklight_core.errors import UnavailableError
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.adapters.native.ranks.commands import Command
from forklight_rollout.adapters.native.ranks.leader import LeadingRunner
from forklight_rollout.ports import DrawRules, EndRules, PromptStart, SequenceStart
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.ranks_scenario import CONFIG, PROMPT, make_engine, publish

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> PublishedWeights:
    return publish(tmp_path_factory.mktemp("ranks"), CONFIG, 0)


Lead = Callable[..., NativeEngine]


@pytest.fixture
def lead(weights: PublishedWeights) -> Iterator[Lead]:
    """An engine of the test's own, whose follower it may kill."""
    made: list[NativeEngine] = []

    def make(**options: object) -> NativeEngine:
        made.append(make_engine(weights, 2, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
        assert follower_of(engine).poll() is not None


def runner_of(engine: NativeEngine) -> LeadingRunner:
    assert isinstance(engine._runner, LeadingRunner)
    return engine._runner


def follower_of(engine: NativeEngine) -> subprocess.Popen[bytes]:
    return runner_of(engine)._followers.members[0].process


def begin(engine: NativeEngine) -> None:
    """Something that goes on for a while."""
    engine.admit(
        PromptStart(
            group=1,
            prompt_ids=PROMPT[:20],
            draw=DrawRules(temperature=1.0),
            end=EndRules(max_new_tokens=60),
            sequences=tuple(SequenceStart(key=key, seed=key) for key in range(3)),
        )
    )
    for _ in range(4):
        assert engine.step().keys


def step_until_it_fails(engine: NativeEngine) -> None:
    for _ in range(200):
        engine.step()


def test_a_process_that_is_killed_ends_the_engine_at_once(lead: Lead) -> None:
    engine = lead()
    begin(engine)
    follower_of(engine).kill()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"process 1 \(pid \d+\) was ended by SIGKILL"):
            step_until_it_fails(engine)
    assert time.monotonic() - started < DEADLINE_S / 2


def test_a_process_that_stands_still_ends_the_engine_after_its_deadline(lead: Lead) -> None:
    engine = lead(gpus_deadline_s=3.0)
    begin(engine)
    os.kill(follower_of(engine).pid, signal.SIGSTOP)
    with pytest.raises(UnavailableError, match="does not answer"):
        step_until_it_fails(engine)


def test_a_process_that_went_astray_ends_the_engine(lead: Lead) -> None:
    engine = lead()
    begin(engine)
    runner_of(engine).columns.move(0, 1)  # nobody is told
    runner_of(engine)._num_frames = 0  # the next step is one with a check
    with pytest.raises(UnavailableError, match="process 1 holds other tokens than process 0"):
        step_until_it_fails(engine)


def test_an_error_of_a_process_is_said_where_the_engine_ends(lead: Lead) -> None:
    engine = lead()
    begin(engine)
    runner_of(engine)._commands.add(Command.CLEAR_TABLE, [99])
    with pytest.raises(UnavailableError, match="ended with exit code 1: InvalidInputError: slot 99 does not"):
        step_until_it_fails(engine)


def test_a_follower_ends_with_its_leader_and_leaves_nothing(
    weights: PublishedWeights, tmp_path: Path
) -> None:
    manifest, script = weights.folder / "manifest.json", Path(__file__).with_name("ranks_leader.py")
    command = [sys.executable, str(script), str(manifest), weights.manifest_id, "cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as leader:
        assert leader.stdout is not None
        try:
            assert select.select([leader.stdout], [], [], 60.0)[0], "the leader has not started"
            follower = int(leader.stdout.readline())
            assert is_running(follower) and list(tmp_path.glob("forklight-ranks-*"))
        finally:
            leader.kill()
    end = time.monotonic() + 10.0
    while is_running(follower):
        assert time.monotonic() < end, "the follower lives on"
        time.sleep(0.05)
    assert not list(tmp_path.glob("forklight-ranks-*"))


def is_running(pid: int) -> bool:
    """Not gone, and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
