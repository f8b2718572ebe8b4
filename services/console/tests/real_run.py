"""A real buffer on a real server behind a real door, with payloads, verdicts and hostile text in them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from forklight.v1 import buffer_pb2_grpc, types_pb2
from forklight_buffer.app import desks_of
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_buffer.servicer import BufferServicer
from forklight_console.adapters.live import LiveRunView
from forklight_console.app import make_app
from forklight_console.parts import open_parts
from forklight_console.settings import ConsoleSettings
from forklight_core import ids
from forklight_core.blobs import FolderBlobStore
from forklight_core.redis_server import start_embedded
from forklight_core.rpc import Registration, open_channel, serve
from forklight_core.runfile import RunFile
from forklight_core.wire import Session, Span, TrajectoryArrays, pack_payload

RUN_ID = "seen"
HOSTILE = (
    "</pre><script>alert(1)</script> \u202egnp\u202c \x1b[31m \x00 {{ 7*7 }} <img src=x onerror=alert(2)>"
)
PROMPTS = [
    {"id": "p<b>0</b>", "prompt": f"What is 1+1? {HOSTILE}", "kind": "math", "gold": "2", "domain": "sums"},
    *({"id": f"p{number}", "prompt": f"{number}+1?", "kind": "logic", "gold": "2"} for number in range(1, 8)),
]


@dataclass(kw_only=True)
class SeenRun:
    """Everything of it."""

    play: Rehearsal
    client: AsyncClient
    app: FastAPI
    folder: Path

    @property
    def names(self) -> list[str]:
        return [ids.training_group_id(RUN_ID, number) for number in range(6)]


def arrays_of(sample: str, num_tokens: int, *, text: str) -> TrajectoryArrays:
    """Tokens with probabilities of every size; those from 4 to 6 were put in by a tool."""
    number = ids.sample_index(sample)
    response = np.arange(num_tokens, dtype=np.int32) % 50
    response[num_tokens // 2 :] += number
    logprobs = np.log(np.linspace(0.001, 1.0, num_tokens)).astype(np.float32)
    drawn = np.ones(num_tokens, dtype=np.uint8)
    drawn[4:6] = 0
    return TrajectoryArrays(
        sample_id=sample,
        prompt_ids=np.arange(5, dtype=np.int32),
        response_ids=response,
        logprobs=logprobs,
        raw_logprobs=logprobs,
        text=text,
        contract="contract",
        drawn=drawn,
        spans=(Span(start=0, version=0), Span(start=num_tokens // 2, version=1)),
        session=Session(commands=(f"echo '{HOSTILE}'",), timeout_s=1.0),
    )


async def generate(play: Rehearsal, length_of: Callable[[str], int], *, most: int) -> None:
    """Real payloads for the tasks there are."""
    for leased in await play.take_tasks(most=most):
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        for pending in await play.buffer.intake.pending_samples(group, leased.lease):
            sample = ids.sample_id(group, pending.index)
            arrays = arrays_of(sample, length_of(sample), text=f"so {sample[-1]} {HOSTILE}")
            blob = play.stage.blobs.put(pack_payload(arrays))
            header = play.trajectory(sample, tokens=length_of(sample))
            header.payload.id, header.payload.size_bytes = blob.id, blob.size_bytes
            await play.buffer.intake.submit_trajectory(header, leased.lease)


def write_verdict(folder: Path, sample: str, *, evidence: str, longer: bytes = b"") -> None:
    """A line as the reward service's audit log has it."""
    (folder / "verdicts").mkdir(exist_ok=True)
    reference = FolderBlobStore(folder / "verdicts" / "evidence").put(longer).id if longer else ""
    line = {
        "seq": 1, "type": "verdict", "at": time.time(), "key": "k" * 64, "sample": sample, "status": "ok",
        "score": 1.0, "mask": False, "parts": {"correct": 1.0}, "evidence": evidence,
        "evidence_ref": reference, "worker": "verifier-0", "worker_version": "rules 3",
        "versions": {"verifier": "3"}, "usage": None,
    }  # fmt: skip
    with (folder / "verdicts" / "front-20260101-000001.jsonl").open("a") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


@asynccontextmanager
async def seen_run(folder: Path, length_of: Callable[[str], int] = lambda _: 12) -> AsyncIterator[SeenRun]:
    """Six groups of two: four generated and scored, of which two are trained; two still open."""
    prompts = folder / "train.jsonl"
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    run_file = RunFile.model_validate(
        {
            "prompts": {"train": str(prompts), "shuffle": False},
            "sampling": {"group_size": 2, "max_new_tokens": 100_000},
            "trainer": {"groups_per_step": 2, "updates_per_version": 1, "steps": 100},
            "buffer": {"max_staleness": 2, "lease_s": 30.0},
        }
    )
    with start_embedded(folder / "redis") as server:
        stage = Stage(redis_url=server.url, folder=folder, run_file=run_file, run_id=RUN_ID)
        stage = replace(stage, blobs=FolderBlobStore(folder / "blobs"))
        async with rehearse(stage) as play:
            await play.restore()
            await play.open()
            await generate(play, length_of, most=4)
            await play.score(lambda sample: float(sample.endswith("0")))
            await play.train(1)
            async with _console(play, folder) as run:
                yield run


@asynccontextmanager
async def _console(play: Rehearsal, folder: Path) -> AsyncIterator[SeenRun]:
    servicer = BufferServicer(play.buffer.context, desks_of(play.buffer))
    add = buffer_pb2_grpc.add_BufferServicer_to_server
    door = Registration(add, servicer, "forklight.v1.Buffer")
    async with serve("127.0.0.1:0", [door]) as server, open_channel(server.address) as channel:
        settings = ConsoleSettings(
            run_file=folder / "run.toml", run_folder=folder, run_id=RUN_ID, buffer_address=server.address
        )
        view = LiveRunView(channel, RUN_ID, folder / "steps.jsonl", folder / "judge" / "log.jsonl")
        async with open_parts(channel, settings) as parts:
            app = make_app(view, RUN_ID, is_local=True, parts=parts)
            transport = cast("ASGITransport", ASGITransport(app=app))
            async with AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                yield SeenRun(play=play, client=client, app=app, folder=folder)
