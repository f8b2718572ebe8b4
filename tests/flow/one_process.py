"""Every service in this process, on a real Redis-compatible server, talking through real doors."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from forklight_buffer.app import run as run_buffer
from forklight_buffer.settings import BufferSettings
from forklight_core.redis_server import start_embedded
from forklight_core.settings import ServiceSettings, load_settings
from forklight_reward.app import run_front, run_judge, run_sandbox, run_verifier
from forklight_reward.settings import FrontSettings, JudgeSettings, SandboxSettings, VerifierSettings
from forklight_rollout.app import run as run_rollout
from forklight_rollout.ports import EngineFactory
from forklight_rollout.settings import RolloutSettings
from forklight_trainer.app import run as run_trainer
from forklight_trainer.settings import TrainerSettings

AnySettings = TypeVar("AnySettings", bound=ServiceSettings)
RUN_ID = "flow"
DOORS = ("buffer", "reward", "verifier", "sandbox", "judge", "trainer", "rollout")

RUN_FILE = """
[run]
name = "flow"
[prompts]
train = "{folder}/prompts.jsonl"
[sampling]
group_size = 4
max_new_tokens = 8
[recipe]
overlong_penalty = false
allow_deviation = true
[trainer]
steps = {steps}
groups_per_step = 1
updates_per_version = 1
learning_rate = 1e-4
pack_tokens = 512
threads = 1
[buffer]
dynamic_sampling = false
max_open_groups = 2
lease_s = 5
[rollout]
max_batch = 8
threads = 1
[evaluation]
every_versions = 0
[parity]
min_correlation = 0.9
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneProcess:
    """A running system: where it is and how to stop it."""

    folder: Path
    addresses: Mapping[str, str]
    trainer_ended: asyncio.Event


def write_run(folder: Path, *, steps: int, rows: list[dict[str, str]]) -> Path:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_file = folder / "run.toml"
    run_file.write_text(RUN_FILE.format(folder=folder, steps=steps))
    return run_file


def free_addresses() -> dict[str, str]:
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in DOORS}
    addresses = {name: f"127.0.0.1:{bound.getsockname()[1]}" for name, bound in sockets.items()}
    for bound in sockets.values():
        bound.close()
    return addresses


@asynccontextmanager
async def run_all(
    folder: Path, run_file: Path, *, make_engine: EngineFactory | None = None
) -> AsyncIterator[OneProcess]:
    """Start every service; stop and drain them in the order data flows. `make_engine`: of the rollout pod."""
    addresses = free_addresses()
    with start_embedded(folder / "redis") as redis:
        shared = {
            "FORKLIGHT_RUN_FILE": str(run_file),
            "FORKLIGHT_RUN_FOLDER": str(folder),
            "FORKLIGHT_RUN_ID": RUN_ID,
            "FORKLIGHT_REDIS_URL": redis.url,
            "FORKLIGHT_BLOBS_URL": f"file://{folder}/blobs",
            **{f"FORKLIGHT_{name.upper()}_ADDRESS": address for name, address in addresses.items()},
        }

        def settings_of(kind: type[AnySettings], name: str) -> AnySettings:
            return load_settings(kind, {**shared, "FORKLIGHT_LISTEN": addresses[name], "FORKLIGHT_POD": name})

        trainer_stop, stop = threading.Event(), asyncio.Event()
        system = OneProcess(folder=folder, addresses=addresses, trainer_ended=asyncio.Event())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_buffer(settings_of(BufferSettings, "buffer"), stop))
            tasks.create_task(run_verifier(settings_of(VerifierSettings, "verifier"), stop))
            tasks.create_task(run_sandbox(settings_of(SandboxSettings, "sandbox"), stop))
            tasks.create_task(run_judge(settings_of(JudgeSettings, "judge"), stop))
            tasks.create_task(run_front(settings_of(FrontSettings, "reward"), stop))
            rollout = settings_of(RolloutSettings, "rollout")
            tasks.create_task(run_rollout(rollout, stop, make_engine=make_engine))

            async def train() -> None:
                try:
                    await asyncio.to_thread(
                        run_trainer, settings_of(TrainerSettings, "trainer"), trainer_stop
                    )
                finally:
                    system.trainer_ended.set()

            tasks.create_task(train())
            try:
                yield system
            finally:
                trainer_stop.set()
                await system.trainer_ended.wait()
                stop.set()
