"""Small real things for the reward tests: a pool, a jail, tasks with their blobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forklight_reward.rehearsal import TaskMaker
from forklight_reward.sandbox.jail_runner import open_jail_runner
from forklight_reward.sandbox.runner import Runner
from forklight_reward.verifier.pool import MathPool


@pytest.fixture(scope="session")
def pool() -> Iterator[MathPool]:
    """One worker process for all tests."""
    made = MathPool()
    yield made
    made.close()


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """This machine's jails."""
    made = open_jail_runner()
    yield made
    made.close()


@pytest.fixture
def tasks() -> TaskMaker:
    """Tasks over a blob store in memory."""
    return TaskMaker()
