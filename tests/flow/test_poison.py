"""Poison reaches a running system: it gets a name and a terminal state, never a score; the run goes on."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, rollout_pb2, rollout_pb2_grpc, types_pb2
from forklight_buffer.audit import audit_run
from forklight_core import ids
from forklight_core.errors import InvalidInputError, NotFoundError
from forklight_core.rpc import open_channel
from forklight_core.wire import SCHEMA_VERSION
from tests.flow.one_process import RUN_ID, run_all, write_run

DEADLINE_S = 120.0
SPEC_BYTES = 100  # a task specification is smaller, a payload larger
REWARD_FAILED, INFRA_FAILED = types_pb2.SAMPLE_STATE_REWARD_FAILED, types_pb2.SAMPLE_STATE_INFRA_FAILED


def rows(kinds: list[str]) -> list[dict[str, str]]:
    return [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": kind, "gold": str(number + 1)}
        for number, kind in enumerate(kinds)
    ]


def ended(folder: Path, state: int) -> list[tuple[str, float | None]]:
    """(reason, reward) of every sample in a terminal state."""
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        return database.execute("SELECT reason, reward FROM samples WHERE state = ?", (state,)).fetchall()


def trained_payloads(folder: Path) -> set[str]:
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        rows = database.execute(
            "SELECT payload_id FROM samples WHERE state = ?", (types_pb2.SAMPLE_STATE_TRAINED,)
        )
        return {row[0] for row in rows}


async def until(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not ready():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


async def test_unknown_task_kind_ends_as_reward_failed_and_the_run_goes_on(tmp_path: Path) -> None:
    run_file = write_run(tmp_path, steps=2, rows=rows(["math", "astrology"] * 3))
    async with run_all(tmp_path, run_file) as system, asyncio.timeout(DEADLINE_S):
        await system.trainer_ended.wait()
    failed = ended(tmp_path, REWARD_FAILED)
    assert failed
    assert all("astrology" in reason and reward is None for reason, reward in failed)
    assert audit_run(tmp_path, None).violations == ()


async def test_corrupt_payloads_end_as_infra_failed_and_the_run_goes_on(tmp_path: Path) -> None:
    run_file = write_run(tmp_path, steps=3, rows=rows(["math"] * 8))
    damaged: set[Path] = set()

    def damage_some() -> bool:
        """Flip a byte in the first payloads; task specifications (small, no token arrays) stay whole."""
        for place in (tmp_path / "blobs").glob("??/[!.]*"):
            data = place.read_bytes()
            if len(damaged) < 3 and b"flow/g" in data and place not in damaged:
                place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
                damaged.add(place)
        return len(damaged) == 3

    async with run_all(tmp_path, run_file) as system:
        await until(damage_some, "payloads to damage")
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
    lost = ended(tmp_path, INFRA_FAILED)
    assert lost
    assert all("corrupt" in reason for reason, _ in lost)
    assert not {f"b3:{place.parent.name}{place.name}" for place in damaged} & trained_payloads(tmp_path)
    assert audit_run(tmp_path, None).violations == ()


async def test_full_disk_is_named_by_the_pod_and_nothing_is_lost_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file = write_run(tmp_path, steps=2, rows=rows(["math"] * 8))
    replace, is_full = os.replace, asyncio.Event()

    def replace_unless_full(source: object, target: object, **others: object) -> None:
        if is_full.is_set() and "/blobs/" in str(target) and Path(str(source)).stat().st_size > SPEC_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target, **others)  # type: ignore[arg-type]

    async def pod_problem() -> str:
        async with open_channel(system.addresses["rollout"]) as channel:
            stub = rollout_pb2_grpc.RolloutStub(channel)
            return (await stub.GetRolloutStatus(rollout_pb2.GetRolloutStatusRequest(), timeout=5)).problem

    monkeypatch.setattr(os, "replace", replace_unless_full)
    async with run_all(tmp_path, run_file) as system, asyncio.timeout(DEADLINE_S):
        await until((tmp_path / "weights").exists, "the first weights")
        is_full.set()
        while "no room" not in await pod_problem():  # noqa: ASYNC110 - seen from outside only
            await asyncio.sleep(0.1)
        is_full.clear()
        await system.trainer_ended.wait()
        assert await pod_problem() == ""
    assert ended(tmp_path, INFRA_FAILED) == []
    assert audit_run(tmp_path, None).violations == ()


async def test_strangers_are_refused_by_name_at_the_buffers_door(tmp_path: Path) -> None:
    run_file = write_run(tmp_path, steps=1, rows=rows(["math"] * 4))
    async with run_all(tmp_path, run_file) as system, open_channel(system.addresses["buffer"]) as channel:
        stub = buffer_pb2_grpc.BufferStub(channel)
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
        sample = ids.sample_id(ids.training_group_id(RUN_ID, 4_000_000), 0)
        envelope = types_pb2.Envelope(
            schema_version=SCHEMA_VERSION, run_id=RUN_ID, group_id=ids.group_of(sample), sample_id=sample
        )
        stranger = types_pb2.Verdict(envelope=envelope, status=types_pb2.VERDICT_STATUS_OK, score=1.0)
        with pytest.raises(NotFoundError, match=sample):
            await stub.SubmitVerdict(buffer_pb2.SubmitVerdictRequest(verdict=stranger), timeout=5)
        stranger.envelope.schema_version = 99
        with pytest.raises(InvalidInputError, match="schema version 99"):
            await stub.SubmitVerdict(buffer_pb2.SubmitVerdictRequest(verdict=stranger), timeout=5)
    assert audit_run(tmp_path, None).violations == ()
