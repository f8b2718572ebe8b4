"""Following announced weights: proof before use, swap policies, and which of several versions is taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import blake3
import pytest

from forklight.v1 import types_pb2
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.generation.draft import Span
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork
from forklight_rollout.ports import Engine, EngineLimits
from forklight_rollout.problems import Problems
from forklight_rollout.weights import watcher as watcher_module
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.swap_policy import SwapPolicy, SwapRules
from forklight_rollout.weights.watcher import WeightsWatcher
from services.rollout.tests.waiting import eventually

RUN_ID = "test-run"
ENDLESS = 10**8
LIMITS = EngineLimits(num_sequences=2, max_tokens=2 * ENDLESS, vocabulary_size=103)
MakeWork = Callable[..., GroupWork]


class ProvenEngine(MemoryEngine):
    """Scores what its weights' manifest says of them, unless it is broken."""

    def __init__(self, version: int = 0) -> None:
        super().__init__(LIMITS, version=version, mean_tokens=ENDLESS)
        self.is_broken = False
        self.swapped: list[int] = []

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        return [-9.0 if self.is_broken else -float(self.version) - 1.0] * (len(ids) - 1)

    def swap(self) -> None:
        super().swap()
        self.swapped.append(self.version)


def write_version(folder: Path, version: int, *, has_probe: bool = True) -> types_pb2.WeightsRef:
    """A version without tensors: all that a watcher looks at."""
    mode = {"is_parity": False, "contract": "", "device": "cpu", "torch": "", "triton": ""}
    probe = {"ids": [1, 2, 3], "logprobs": [-float(version) - 1.0] * 2, "mode": mode}
    path = folder / f"v{version}" / "manifest.json"
    path.parent.mkdir(exist_ok=True)
    fields = {
        "schema_version": 2,
        "kind": "full",
        "run_id": RUN_ID,
        "version": version,
        "step": version,
        "contract": "c0",
        "kernels": "k0",
        "config": {},
        "files": [],
        "tensors": {},
        "probe": probe if has_probe else None,
    }
    path.write_text(json.dumps(fields))
    manifest_id = "b3:" + blake3.blake3(path.read_bytes()).hexdigest()
    return types_pb2.WeightsRef(version=version, manifest=str(path), manifest_id=manifest_id)


@dataclass
class Following:
    """A watcher, its engine, and what is announced."""

    folder: Path
    rules: SwapRules = field(default_factory=SwapRules)
    newest: types_pb2.WeightsRef | None = None
    reads: list[types_pb2.WeightsRef] = field(default_factory=list)
    """Answered first, one a call."""
    engine: ProvenEngine = field(default_factory=ProvenEngine)
    problems: Problems = field(default_factory=Problems)
    finished: list[FinishedSample] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.watcher = WeightsWatcher(
            self.read, run_id=RUN_ID, problems=self.problems, poll_s=0.005, rules=self.rules
        )
        self.watcher.saved = self
        self.thread = EngineThread(Generator(self.engine))

    async def read(self) -> types_pb2.WeightsRef | None:
        return self.reads.pop(0) if self.reads else self.newest

    async def forget_saved(self, sample_ids: Sequence[str]) -> None:
        self.forgotten += sample_ids

    def announce(self, version: int, *, has_probe: bool = True) -> None:
        self.newest = write_version(self.folder, version, has_probe=has_probe)

    async def add(self, work: GroupWork) -> None:
        await self.thread.call(lambda generator: generator.add(work))

    async def end(self, work: GroupWork) -> None:
        """Let a group's samples end."""
        await self.end_some({sample.sample_id for sample in work.samples})

    async def end_some(self, names: set[str]) -> None:
        self.finished += await self.thread.call(lambda generator: generator.cancel(names))

    async def is_admitting(self) -> bool:
        return await self.thread.call(lambda generator: generator.is_admitting)


@pytest.fixture
def follow(tmp_path: Path) -> Callable[..., Following]:
    return lambda **rules: Following(tmp_path, SwapRules(**rules))


@contextlib.asynccontextmanager
async def running(found: Following) -> AsyncIterator[None]:
    found.thread.start(deliver=found.finished.extend)
    task = asyncio.create_task(found.watcher.run(found.engine, found.thread, found.stop))
    try:
        yield
    finally:
        found.stop.set()
        await task
        await found.thread.close()


async def draw_some(found: Following) -> None:
    """Until every running sample has tokens that were drawn after this was asked for."""
    before = found.thread.reading.num_tokens
    await eventually(lambda: found.thread.reading.num_tokens > before + 10)


async def test_a_pod_begins_with_the_first_version_that_passes_its_probe(
    follow: Callable[..., Following],
) -> None:
    found, made = follow(), []

    def make_engine(weights: PublishedWeights) -> Engine:
        engine = ProvenEngine(weights.version)
        engine.is_broken = weights.version == 0
        made.append(weights.version)
        return engine

    found.announce(0)
    waiting = asyncio.create_task(found.watcher.wait_first(make_engine, found.stop))
    await eventually(lambda: "2 of 2 log-probs" in found.problems.out_of_service())
    found.announce(1)
    first = await waiting
    assert first is not None
    assert (first.weights.version, first.engine.version, made) == (1, 1, [0, 1])
    assert found.problems.summary() == ""


async def test_a_pod_that_joins_takes_the_newest_of_what_was_announced_meanwhile(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    found, made = follow(), []
    found.reads = [write_version(tmp_path, version) for version in (3, 4)]
    found.newest = found.reads[1]

    def make_engine(weights: PublishedWeights) -> Engine:
        made.append(weights.version)
        return ProvenEngine(weights.version)

    first = await found.watcher.wait_first(make_engine, found.stop)
    assert first is not None
    assert (first.weights.version, made) == (4, [4])


async def test_versions_that_come_faster_than_they_are_verified_do_not_keep_a_pod_waiting(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    found = follow()
    found.reads = [write_version(tmp_path, version) for version in range(50)]
    first = await found.watcher.wait_first(lambda weights: ProvenEngine(weights.version), found.stop)
    assert first is not None
    assert first.weights.version == 2


async def test_a_version_torn_while_it_was_announced_leaves_the_one_before(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    found = follow()
    found.reads = [write_version(tmp_path, version) for version in (0, 1)]
    found.newest = found.reads[1]
    (tmp_path / "v1" / "manifest.json").write_text("{}")
    first = await found.watcher.wait_first(lambda weights: ProvenEngine(weights.version), found.stop)
    assert first is not None
    assert first.weights.version == 0


async def test_a_failed_probe_stops_generation_until_a_version_passes(
    follow: Callable[..., Following], make_work: MakeWork
) -> None:
    found, work = follow(), make_work(num_samples=2, max_new_tokens=ENDLESS)
    async with running(found):
        await found.add(work)
        await eventually(lambda: found.thread.reading.num_tokens > 0)
        found.engine.is_broken = True
        found.announce(1)
        await eventually(lambda: bool(found.problems.out_of_service()))
        assert "version 1: 2 of 2 log-probs" in found.problems.out_of_service()
        await eventually(lambda: found.thread.reading.num_running == 0)
        reading = found.thread.reading
        assert reading.num_waiting == 2
        found.engine.is_broken = False
        found.announce(2)
        await eventually(lambda: found.problems.out_of_service() == "")
        await eventually(lambda: found.thread.reading.num_tokens > reading.num_tokens)
        await found.end(work)
    for sample in found.finished:
        assert [span.version for span in sample.response.spans] == [0, 2]


async def test_a_version_that_failed_its_probe_is_tried_again(
    follow: Callable[..., Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "PROBE_RETRY_S", 0.01)
    found = follow()
    async with running(found):
        found.engine.is_broken = True
        found.announce(1)
        await eventually(lambda: len(found.engine.swapped) >= 3)
        assert not await found.is_admitting()
        found.engine.is_broken = False
        await eventually(lambda: found.problems.summary() == "")
        assert await found.is_admitting()
        assert set(found.engine.swapped) == {1}


async def test_versions_without_a_probe_are_used_with_one_warning(
    follow: Callable[..., Following], caplog: pytest.LogCaptureFixture
) -> None:
    found = follow()
    async with running(found):
        found.announce(1, has_probe=False)
        await eventually(lambda: found.engine.swapped == [1])
        found.announce(2, has_probe=False)
        await eventually(lambda: found.engine.swapped == [1, 2])
        await eventually(lambda: found.watcher.waiting is None)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        "weights are used unproven: their manifest has no probe"
    ]
    assert found.problems.summary() == ""


async def test_finish_waits_for_what_runs_and_a_newer_version_takes_the_staged_ones_place(
    follow: Callable[..., Following], make_work: MakeWork
) -> None:
    found = follow(policy=SwapPolicy.FINISH)
    old, new = (make_work(index, num_samples=2, max_new_tokens=ENDLESS) for index in (0, 1))
    async with running(found):
        await found.add(old)
        await eventually(lambda: found.thread.reading.num_running == 2)
        found.announce(1)
        await eventually(lambda: found.watcher.waiting is not None and found.watcher.waiting.version == 1)
        await found.end_some({old.samples[0].sample_id})
        await found.add(new)
        found.announce(2)
        await eventually(lambda: found.watcher.waiting is not None and found.watcher.waiting.version == 2)
        assert (found.thread.reading.num_running, found.thread.reading.num_waiting) == (1, 2)
        assert found.engine.version == 0
        await found.end(old)
        await eventually(lambda: found.thread.reading.num_running == 2)
        assert found.engine.swapped == [2]
        await found.end(new)
    spans = {sample.group_id: {span.version for span in sample.response.spans} for sample in found.finished}
    assert spans == {old.group_id: {0}, new.group_id: {2}}


async def test_finish_goes_on_as_keep_when_its_time_is_over(
    follow: Callable[..., Following], make_work: MakeWork
) -> None:
    found = follow(policy=SwapPolicy.FINISH, finish_s=0.02)
    work = make_work(num_samples=3, max_new_tokens=ENDLESS)
    async with running(found):
        await found.add(work)
        await eventually(lambda: found.thread.reading.num_running == 2)
        found.announce(1)
        await eventually(lambda: found.engine.version == 1 and found.watcher.waiting is None)
        assert await found.is_admitting()
        assert found.watcher.last_swap_s < 1
        await found.end(work)
    assert Span(start=0, version=0) in found.finished[0].response.spans


async def test_a_stop_while_a_version_waits_lets_a_drain_begin_what_it_has_to_finish(
    follow: Callable[..., Following], make_work: MakeWork
) -> None:
    found, work = follow(policy=SwapPolicy.FINISH), make_work(num_samples=3, max_new_tokens=ENDLESS)
    async with running(found):
        await found.add(work)
        await eventually(lambda: found.thread.reading.num_running == 2)
        found.announce(1)
        await eventually(lambda: found.watcher.waiting is not None)
        found.stop.set()
        await eventually(lambda: found.watcher.waiting is None)
        await found.end_some({work.samples[0].sample_id})
        await eventually(lambda: found.thread.reading.num_waiting == 0)
        assert found.engine.swapped == []
        await found.end(work)


async def test_restart_has_saved_tokens_forgotten(
    follow: Callable[..., Following], make_work: MakeWork
) -> None:
    found = follow(policy=SwapPolicy.RESTART)
    work = make_work(num_samples=2, max_new_tokens=ENDLESS)
    async with running(found):
        await found.add(work)
        await eventually(lambda: found.thread.reading.num_tokens > 10)
        name = work.samples[1].sample_id
        await found.thread.call(lambda generator: generator.note_saved(name, 2))
        found.announce(1)
        await eventually(lambda: found.forgotten == [name])
        await draw_some(found)
        await found.end(work)
    assert {sample.response.spans for sample in found.finished} == {(Span(start=0, version=1),)}


async def test_the_watcher_ends_quietly_when_the_engine_is_gone(follow: Callable[..., Following]) -> None:
    found = follow()
    found.thread.start(deliver=found.finished.extend)
    await found.thread.close()
    found.announce(1)
    async with asyncio.timeout(30):
        await found.watcher.run(found.engine, found.thread, found.stop)
    assert found.engine.swapped == []
