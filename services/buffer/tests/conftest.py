"""One real server for all tests of the room; every test is a run of its own on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forklight_buffer.rehearsal import Stage, write_prompts
from forklight_core.redis_server import EmbeddedRedis, start_embedded
from forklight_core.runfile import RunFile


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with start_embedded(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def make_stage(server: EmbeddedRedis, tmp_path: Path) -> Callable[..., Stage]:
    """A small run: groups of 2, 2 groups a step, a version a step; sections may be overridden."""

    def make(*, redis_url: str = "", num_prompts: int = 8, in_memory: bool = False, **sections: Any) -> Stage:
        prompts = {"train": str(write_prompts(tmp_path / "train.jsonl", num_prompts))}
        base: dict[str, dict[str, Any]] = {
            "prompts": prompts,
            "sampling": {"group_size": 2, "max_new_tokens": 10},
            "trainer": {"groups_per_step": 2, "updates_per_version": 1, "steps": 100},
            "buffer": {"max_staleness": 2, "lease_s": 30.0},
        }
        merged = {name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}
        return Stage(
            redis_url=redis_url or server.url,
            folder=tmp_path,
            run_file=RunFile.model_validate(merged),
            run_id=f"t-{secrets.token_hex(6)}",
            in_memory=in_memory,
        )

    return make


@pytest.fixture
def make_evaluated(make_stage: Callable[..., Stage], tmp_path: Path) -> Callable[..., Stage]:
    """The same with three held-out prompts and a round at every second version."""

    def make(*, sections: dict[str, dict[str, Any]] | None = None, **evaluation: Any) -> Stage:
        holdout = write_prompts(tmp_path / "holdout.jsonl", 3)
        prompts = {"train": str(write_prompts(tmp_path / "train.jsonl", 8)), "holdout": str(holdout)}
        section = {"every_versions": 2, "num_prompts": 64, "temperature": 0.0} | evaluation
        return make_stage(prompts=prompts, evaluation=section, **(sections or {}))

    return make
