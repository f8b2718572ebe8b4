"""Extraction, format, and a pool that outlives every bomb."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from forklight_core.errors import BusyError, UnavailableError
from forklight_reward.verifier.extract import extract_answer
from forklight_reward.verifier.format import format_score
from forklight_reward.verifier.guard import find_danger
from forklight_reward.verifier.math_process import CallLimits, MathWorker, Word
from forklight_reward.verifier.pool import MathPool
from forklight_reward.verifier.verify import MathStatus, verify_math

WORKER = "forklight_reward.verifier.math_worker"
UNGUARDED_BOMB = "((10^{5000})^{5000})^{5000}"
SOFT_BOMB = "x^{5000}-(x+1)^{4999}"
SLOW_GOLD, SLOW_ANSWER = r"2\sqrt{2}", r"\sqrt{8}"


@pytest.fixture(scope="module")
def hasty() -> Iterator[MathPool]:
    """A pool with less patience, so that bombs cost the tests little."""
    made = MathPool(quick=CallLimits(soft_s=0.2, hard_s=1.0), slow=CallLimits(soft_s=0.6, hard_s=2.0))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think>a</think> so \boxed{42}", "42"),
        (r"no thinking, \boxed{ 42 }.", "42"),
        (r"<think>\boxed{1}</think> \boxed{2} or \boxed{3}", "2, 3"),
        (r"</think> \boxed{2} no, it is \boxed{3}", "3"),
        (r"</think> \boxed{1}\boxed{2}, $\boxed{3}$ \text{ and } \boxed{4}", "1, 2, 3, 4"),
        (r"</think> \boxed{5}. \boxed{ 5 }", "5"),
        (r"</think> \boxed{\boxed{5}}", "5"),
        (r"</think> \boxed{6 \boxed{5}}", r"6 \boxed{5}"),
        (r"</think> \boxed{\boxed{5}, \boxed{6}}", r"\boxed{5}, \boxed{6}"),
        (r"</think> \boxed{6 \boxed{5}", "5"),
        (r"</think> \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"</think> \boxed{\{1,2\}}", r"\{1,2\}"),
        (r"</think> \boxed{3} and \boxed{4", "3"),
        (r"<think>\boxed{42}</think> nothing", None),
        (r"<think>\boxed{42}", None),
        (r"<think>a</think> \boxed{1} <think> \boxed{2}", "1"),
        (r"</think> \boxed{" + "1" * 5000 + "}", None),
        ("\\boxed{" * 10_000, None),
        ("", None),
    ],
)
def test_last_balanced_box_after_the_thinking_is_the_answer(response: str, answer: str | None) -> None:
    extraction = extract_answer(response)
    assert extraction.answer == answer
    assert bool(extraction.reason) == (answer is None)


def test_extraction_is_quick_on_a_hostile_response() -> None:
    started = time.perf_counter()
    assert extract_answer("\\boxed{" + "{" * 4000 + "\\boxed{x" * 40_000).answer is None
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (r"<think>a</think>\boxed{1}", 1.0),
        ("\n<think>\na\n</think>\nThe answer is \\boxed{1}.\n", 1.0),
        (r"\boxed{1}", 0.0),
        (r"<think></think>\boxed{1}", 0.0),
        (r"<think>a</think>\boxed{}", 0.0),
        (r"<think>a</think>\boxed{1}\boxed{1}", 0.0),
        (r"<think>a<think>b</think>\boxed{1}", 0.0),
        (r"<think>a</think>b</think>\boxed{1}", 0.0),
        (r"hello <think>a</think>\boxed{1}", 0.0),
        (r"<think>\boxed{1}</think> done", 0.0),
        (r"</think>a<think>\boxed{1}", 0.0),
    ],
)
def test_format_wants_one_thinking_and_one_box(response: str, score: float) -> None:
    assert format_score(response) == score


def test_whole_response_and_bare_answer_are_told_apart() -> None:
    assert verify_math("42", r"<think>41</think> \boxed{42}").correct
    assert verify_math("42", "42").correct
    assert not verify_math("42", "<think>42</think> 42").correct
    assert verify_math("42", "42", extracted=False).status is MathStatus.WRONG


def test_fast_path_never_starts_a_worker_for_integers() -> None:
    pool = MathPool()
    assert verify_math("42", "42", pool=pool).correct
    assert not verify_math("42", "41", pool=pool).correct
    assert pool.stats.num_started == 0


def test_bomb_that_passes_the_guard_is_killed_in_both_lanes_and_the_pool_lives_on() -> None:
    assert not find_danger(UNGUARDED_BOMB)
    short = CallLimits(soft_s=5.0, hard_s=0.3)
    pool = MathPool(quick=short, slow=short)
    try:
        verdict = verify_math("7", UNGUARDED_BOMB, pool=pool)
        assert verdict.status is MathStatus.LIMIT
        assert not verdict.correct
        assert (pool.stats.num_killed, pool.stats.num_slow) == (2, 1)
        assert verify_math(r"2\sqrt{2}", r"\sqrt{8}", pool=pool).correct
        assert (pool.stats.num_killed, pool.stats.num_slow) == (2, 1)
    finally:
        pool.close()


def test_alarm_ends_a_call_without_a_kill(hasty: MathPool) -> None:
    killed = hasty.stats.num_killed
    assert hasty.compare("1", SOFT_BOMB, wait_s=60) is Word.LIMIT
    assert hasty.stats.num_killed == killed


def test_what_the_quick_lane_has_no_time_for_is_still_right() -> None:
    pool = MathPool(quick=CallLimits(soft_s=0.001, hard_s=1.0))
    try:
        assert pool.compare(SLOW_GOLD, SLOW_ANSWER, wait_s=60) is Word.EQUAL
        assert pool.stats.num_slow == 1
    finally:
        pool.close()


def test_honest_answer_does_not_wait_behind_bombs(hasty: MathPool) -> None:
    hasty.compare("1", SOFT_BOMB, wait_s=60)  # the slow lane is warm
    with ThreadPoolExecutor(2) as threads:
        bombs = [threads.submit(hasty.compare, "1", SOFT_BOMB, wait_s=60) for _ in range(2)]
        until(lambda: hasty.waiting_slow == 2, "both bombs in the slow lane")
        assert hasty.compare(SLOW_GOLD, SLOW_ANSWER, wait_s=60) is Word.EQUAL
        assert not bombs[0].done() or not bombs[1].done()
        assert [bomb.result() for bomb in bombs] == [Word.LIMIT, Word.LIMIT]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.005)


def test_worker_that_dies_by_itself_is_an_infrastructure_error() -> None:
    worker = MathWorker()
    os.kill(worker.pid, signal.SIGTERM)
    with pytest.raises(UnavailableError, match="died by itself"):
        while True:
            worker.compare("x+1", "1+x", CallLimits())


def is_worker(process: psutil.Process) -> bool:
    try:
        return WORKER in process.cmdline()
    except psutil.Error:  # another test's child, ended and not waited for
        return False


def test_worker_that_died_while_it_waited_is_replaced_before_it_is_asked() -> None:
    pool = MathPool()
    try:
        assert pool.compare("x+1", "1+x", wait_s=60) is Word.EQUAL
        workers = [each for each in psutil.Process().children() if is_worker(each)]
        newest = max(workers, key=lambda each: each.create_time())
        newest.kill()
        newest.wait(10)
        assert pool.compare("x+1", "1+x", wait_s=60) is Word.EQUAL
        assert pool.stats.num_started == 2
    finally:
        pool.close()


def test_worker_is_recycled_after_its_calls() -> None:
    pool = MathPool(recycle_after=2)
    try:
        for _ in range(3):
            assert pool.compare("x+1", "1+x", wait_s=60) is Word.EQUAL
        assert (pool.stats.num_recycled, pool.stats.num_started, pool.stats.num_killed) == (1, 2, 0)
    finally:
        pool.close()


def test_pool_without_a_free_worker_is_busy() -> None:
    with pytest.raises(BusyError, match="no math worker"):
        MathPool(num_processes=0).compare("x", "y", wait_s=0.01)


def test_worker_ends_when_its_parent_is_killed() -> None:
    program = (
        "import os, signal\nfrom forklight_reward.verifier.math_process import MathWorker\n"
        "print(MathWorker().pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline, f"math worker {pid} outlived its parent"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """False for a process that has ended, reaped or not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
