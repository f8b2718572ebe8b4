"""Scores an answer with the gym's own scorer, inside a jail and nowhere else.

The scorers of nine tasks run the answer as a program. A guard refuses what looks like one, the jail holds
what passes the guard, and what comes out is one number that must name a nonce.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from forklight_core.errors import UnavailableError
from forklight_reward.gym.catalogue import EXECUTING, RELEASE, SOLVED, package_folder
from forklight_reward.gym.guard import MOST_CHARACTERS, find_program
from forklight_reward.gym.inside import PLACE
from forklight_reward.gym.item import GymItem
from forklight_reward.sandbox.jail import is_reachable
from forklight_reward.sandbox.outcome import describe, failure_class
from forklight_reward.sandbox.result import Class, SandboxResult, Usage
from forklight_reward.sandbox.runner import Ended, Job, JobKind, Runner, Tier
from forklight_reward.sandbox.spec import Limits

LIMITS = Limits(cpu_s=20.0, wall_s=60.0, memory_mb=1024, pids=32, output_bytes=65536, disk_mb=16)
"""Loading the gym alone takes two seconds of CPU."""


@lru_cache(maxsize=1)
def inside_program() -> bytes:
    """The program that runs in the jail."""
    return Path(__file__).with_name("inside.py").read_bytes()


def gym_version(runner: Runner) -> str:
    """For verdicts."""
    return f"reasoning-gym/{RELEASE} {runner.version}"


def score_answer(item: GymItem, answer: str, runner: Runner) -> SandboxResult:
    """AC or not. UnavailableError when the gym is missing or a jail failed: never a score."""
    folder = package_folder()
    if runner.tier is not Tier.JAIL:
        raise UnavailableError(
            f"gym tasks are scored in tier {Tier.JAIL} only, where this machine's packages can be mounted; "
            f"this sandbox runs tier {runner.tier}"
        )
    if not is_reachable(str(folder)):
        raise UnavailableError(f"a jail's user cannot reach {folder}; install it where every user may read")
    if len(answer) > MOST_CHARACTERS:
        return _result(Class.WRONG_ANSWER, f"an answer of more than {MOST_CHARACTERS} characters")
    if item.task in EXECUTING and (danger := find_program(answer)):
        return _result(Class.WRONG_ANSWER, f"not evaluated: {danger}")
    return run_scorer(item, answer, runner)


def run_scorer(item: GymItem, answer: str, runner: Runner) -> SandboxResult:
    """The gym's word on an answer, said in a jail."""
    nonce = secrets.token_hex(16)
    asked = {"task": item.task, "seed": item.seed, "entry": item.entry, "answer": answer, "nonce": nonce}
    job = Job(
        kind=JobKind.PROGRAM,
        source=inside_program(),
        stdin=json.dumps(asked).encode() + b"\n",
        limits=LIMITS,
        mounts={PLACE: str(package_folder())},
    )
    return judge_output(runner.run(job), nonce)


def judge_output(ended: Ended, nonce: str) -> SandboxResult:
    """Without the first line it is the machinery that failed, after it the answer."""
    lines = ended.stdout.decode("utf-8", "replace").splitlines()
    failure = failure_class(ended, LIMITS)
    if not lines or _read(lines[0]) != {"ready": nonce}:
        raise UnavailableError(
            f"the gym did not start in its jail: {describe(ended)}: "
            f"{ended.stderr[-300:].decode(errors='replace')}"
        )
    score = _score_of(lines, nonce)
    if failure is not None or score is None:
        return _result(failure or Class.RUNTIME_ERROR, describe(ended), ended)
    verdict = Class.ACCEPTED if score >= SOLVED else Class.WRONG_ANSWER
    return _result(verdict, "" if verdict is Class.ACCEPTED else f"the gym's score is {score:.3f}", ended)


def _score_of(lines: Sequence[str], nonce: str) -> float | None:
    last = _read(lines[-1])
    if not isinstance(last, dict) or last.get("nonce") != nonce:
        return None
    score = last.get("score")
    return float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None


def _read(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _result(verdict: Class, evidence: str, ended: Ended | None = None) -> SandboxResult:
    is_right = verdict is Class.ACCEPTED
    return SandboxResult(
        verdict=verdict,
        num_passed=int(is_right),
        num_tests=1,
        first_fail=None if is_right else 0,
        usage=Usage() if ended is None else ended.usage,
        evidence=evidence,
    )
