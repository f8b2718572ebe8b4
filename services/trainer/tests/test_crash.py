"""kill -9 at any instant: the run that comes of it is, bit for bit, the one that nobody disturbed.

`python services/trainer/tests/test_crash.py --kills 200 --seed 1` kills as often as told.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from forklight.v1 import buffer_pb2, buffer_pb2_grpc
from forklight_core.blobs import open_blob_store
from forklight_core.rpc import Registration, serve
from forklight_model.checkpoint import load_model
from forklight_model.parts import PartsReader, StateKey
from forklight_trainer.adapters.memory import MemoryBuffer, MemoryConnection
from forklight_trainer.checkpoints.manifest import verify_checkpoint
from forklight_trainer.ports import RestorePoint

SERVICE = buffer_pb2.DESCRIPTOR.services_by_name["Buffer"].full_name
PROGRAM = Path(__file__).with_name("dying_trainer.py")
STEPS, PER_VERSION = 6, 2
CLOCK = ("time", "seconds", "tokens_per_s")
DEADLINE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Of conftest.py."""

    maker: Any
    write_run_file: Callable[..., Path]


class Door(buffer_pb2_grpc.BufferServicer):
    """The memory buffer behind a real door: it outlives the trainers, and looks at their disk."""

    def __init__(self, buffer: MemoryBuffer, folder: Path) -> None:
        self.buffer, self._folder = buffer, folder
        self._connections: dict[int, MemoryConnection] = {}
        self.num_redelivered = 0

    async def RestoreTrainer(self, request: Any, context: Any) -> buffer_pb2.RestoreTrainerReply:
        connection = self.buffer.connect()
        point = RestorePoint(
            lineage=request.lineage,
            step=request.step,
            version=request.version,
            commits=tuple(request.commits),
        )
        reply = connection.restore_trainer(point)
        self._connections[reply.epoch] = connection
        self.num_redelivered += reply.num_redelivered
        return reply

    async def LeaseBatch(self, request: Any, context: Any) -> buffer_pb2.LeaseBatchReply:
        return self._connections[request.epoch].lease_batch(request.step, 0.0)

    async def CommitSteps(self, request: Any, context: Any) -> buffer_pb2.CommitStepsReply:
        verify_checkpoint(self._folder / "checkpoints" / f"step-{request.records[-1].step:08d}")
        return self._connections[request.epoch].commit_steps(request.records)

    async def AnnounceVersion(self, request: Any, context: Any) -> buffer_pb2.AnnounceVersionReply:
        step = request.weights.version * PER_VERSION
        assert step == 0 or step in self.buffer.ledger.values(), "announced before it was committed"
        version = self._connections[request.epoch].announce_version(request.weights)
        return buffer_pb2.AnnounceVersionReply(version=version)


@dataclass(kw_only=True)
class Program:
    """Where trainers come from: `dying_trainer.py`, in a process of its own."""

    process: asyncio.subprocess.Process
    log: Path

    async def train(self, settings: dict[str, object], die_at: int | None) -> dict[str, Any]:
        """One trainer, from its start to its end."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps({"settings": settings, "die_at": die_at}).encode() + b"\n")
        await stdin.drain()
        line = await asyncio.wait_for(stdout.readline(), DEADLINE_S)
        assert line, self.log.read_text()[-3000:]
        answer: dict[str, Any] = json.loads(line)
        assert answer["code"] in (0, -9), f"code {answer['code']}: {self.log.read_text()[-3000:]}"
        return answer


@asynccontextmanager
async def start_program(folder: Path) -> AsyncIterator[Program]:
    path = folder / "trainers.log"
    with path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    try:
        yield Program(process=process, log=path)
    finally:
        process.kill()
        await process.wait()


@dataclass(kw_only=True)
class Trial:
    """A run in a folder of its own, whose trainers are killed."""

    folder: Path
    maker: Any
    run_file: Path
    every: int

    async def go(self, program: Program, chance: random.Random, *, kills: int, span: int) -> int:
        """The first trainers die within `span` moments, the last comes to the end. Returns its moments."""
        self.buffer = MemoryBuffer(cache(self.maker.batch))
        door = Door(self.buffer, self.folder)
        registration = Registration(buffer_pb2_grpc.add_BufferServicer_to_server, door, SERVICE)
        async with serve("127.0.0.1:0", [registration]) as server:
            settings = self._settings(server.address)
            for _ in range(kills):
                if (await program.train(settings, chance.randint(1, span)))["code"] == 0:
                    break
                self._check_risk()
            last = await program.train(settings, None)
        assert last["code"] == 0
        assert door.num_redelivered == 0, "something committed was lost"
        return int(last["num_moments"])

    def _settings(self, address: str) -> dict[str, object]:
        return {
            "run_file": str(self.run_file),
            "run_folder": str(self.folder),
            "run_id": "test-run",
            "blobs_url": f"file://{self.folder.parent}/blobs",
            "buffer_address": address,
            "device": "cpu",
            "lease_wait_s": 0.05,
        }

    def _check_risk(self) -> None:
        """No more steps were taken by the kill than the run file allows."""
        durable = max((int(path.name[5:]) for path in self.folder.glob("checkpoints/step-*")), default=0)
        assert max([0, *(line["step"] for line in self.curve())]) - durable <= self.every

    def curve(self) -> list[dict[str, Any]]:
        path = self.folder / "steps.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]

    def compare(self, straight: Trial) -> None:
        """Curve, ledger, final weights and everything the last checkpoint holds."""
        assert self.curve() == straight.curve()
        assert [line["step"] for line in self.curve()] == list(range(1, STEPS + 1))
        assert self.buffer.ledger == straight.buffer.ledger
        finals = [load_model(each.folder / "final").state_dict() for each in (self, straight)]
        assert all(torch.equal(finals[0][name], tensor) for name, tensor in finals[1].items())
        last = f"checkpoints/step-{STEPS:08d}"
        with PartsReader(self.folder / last) as ours, PartsReader(straight.folder / last) as theirs:
            assert (ours.shapes, ours.adam_step) == (theirs.shapes, theirs.adam_step)
            for name in ours.shapes:
                for key in StateKey:
                    assert torch.equal(ours.read(name, key), theirs.read(name, key)), (name, key)
            assert torch.equal(ours.random_state(0)["cpu"], theirs.random_state(0)["cpu"])
        assert sorted(self.folder.glob("checkpoints/.*")) == sorted(self.folder.glob("weights/.*")) == []


async def torture(program: Program, folder: Path, tools: Tools, *, every: int, kills: int, seed: int) -> int:
    """A run that nobody disturbs and one that is killed; returns the moments of the first."""
    tools.maker.blobs = open_blob_store(f"file://{folder}/blobs")
    trials = []
    for name in ("straight", "killed"):
        (folder / name).mkdir(parents=True)
        run_file = tools.write_run_file(
            folder / name, steps=STEPS, updates_per_version=PER_VERSION, checkpoint_every_steps=every
        )
        trials.append(Trial(folder=folder / name, maker=tools.maker, run_file=run_file, every=every))
    straight, killed = trials
    chance = random.Random(seed)
    num_moments = await straight.go(program, chance, kills=0, span=0)
    await killed.go(program, chance, kills=kills, span=num_moments // 2)
    killed.compare(straight)
    return num_moments


async def test_a_run_killed_at_any_moment_comes_to_the_same_end(
    tmp_path: Path, maker: Any, write_run_file: Callable[..., Path]
) -> None:
    tools = Tools(maker=maker, write_run_file=write_run_file)
    async with start_program(tmp_path) as program:
        for every in (1, 3):
            folder = tmp_path / str(every)
            num_moments = await torture(program, folder, tools, every=every, kills=4, seed=every)
            assert num_moments > 150  # the kills are spread over all of them


async def torture_long(tools: Tools, *, kills: int, seed: int) -> None:
    """Eight kills a run, with a checkpoint every step and every third in turn."""
    with tempfile.TemporaryDirectory() as folder:
        async with start_program(Path(folder)) as program:
            for round_ in range(max(1, kills // 8)):
                every = (1, 3)[round_ % 2]
                place = Path(folder) / str(round_)
                moments = await torture(program, place, tools, every=every, kills=8, seed=seed + round_)
                sys.stdout.write(f"seed {seed + round_}: 8 kills among {moments} moments, no difference\n")
                sys.stdout.flush()


def main() -> None:
    """As often as told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    conftest = importlib.import_module("conftest")
    torch.set_num_threads(1)
    tools = Tools(maker=conftest.SampleMaker(), write_run_file=conftest.tiny_run_file)
    asyncio.run(torture_long(tools, kills=arguments.kills, seed=arguments.seed))


if __name__ == "__main__":
    main()
