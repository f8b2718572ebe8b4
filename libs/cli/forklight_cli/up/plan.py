"""What will run: processes, ports, environment. Pure; `--dry-run` prints it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forklight_cli.run_folder import RunFolder
from forklight_core.ports import free_ports
from forklight_core.runfile import RunFile

REWARD_ROLES = ("verifier", "sandbox", "judge", "front")
CONSOLE_PORT = 7117


class Kind(StrEnum):
    """Groups of processes that start and stop together."""

    BUFFER = "buffer"
    REWARD = "reward"
    ROLLOUT = "rollout"
    TRAINER = "trainer"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """One child process."""

    name: str
    kind: Kind
    arguments: tuple[str, ...]
    """Of the Python interpreter."""
    address: str
    """host:port of its door."""
    essential: bool = True
    """The run cannot go on without it."""
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPlan:
    """Everything that is started beside Redis."""

    run_id: str
    folder: RunFolder
    processes: tuple[ProcessPlan, ...]

    def address_of(self, name: str) -> str:
        """Where a process listens."""
        return next(process.address for process in self.processes if process.name == name)

    @property
    def addresses(self) -> dict[str, str]:
        """All doors by process name."""
        return {process.name: process.address for process in self.processes}


def plan_system(run_file: RunFile, folder: RunFolder, run_id: str, redis_url: str) -> SystemPlan:
    """The processes of a run, each with a door of its own on loopback."""
    names = ["buffer", *(f"reward-{role}" for role in REWARD_ROLES), "trainer", "console"]
    names += [f"rollout-{index}" for index in range(run_file.rollout.pods)]
    addresses = dict(zip(names, (f"127.0.0.1:{port}" for port in free_ports(len(names))), strict=True))
    if is_free(CONSOLE_PORT):
        addresses["console"] = f"127.0.0.1:{CONSOLE_PORT}"
    shared = _shared_environment(run_file, folder, run_id, redis_url, addresses)
    dispensable = {"reward-judge", "console"}
    if not run_file.tools.names:
        dispensable.add("reward-sandbox")  # else every call of a generation would wait for it
    processes = tuple(
        ProcessPlan(
            name=name,
            kind=Kind(name.partition("-")[0]),
            arguments=_arguments(name, run_file),
            address=address,
            essential=name not in dispensable,
            environment={
                **shared,
                "FORKLIGHT_LISTEN": address,
                "FORKLIGHT_POD": name,
                **_http_environment(name),
                **_metrics_environment(names.index(name)),
            },
        )
        for name, address in addresses.items()
    )
    return SystemPlan(run_id=run_id, folder=folder, processes=processes)


def is_free(port: int) -> bool:
    """Whether a loopback port can be bound."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _arguments(name: str, run_file: RunFile) -> tuple[str, ...]:
    service, _, role = name.partition("-")
    module = ("-m", f"forklight_{service}", *([role] if service == "reward" else []))
    if service == "trainer" and run_file.trainer.engine == "deepspeed":
        return ("-m", *gang_arguments(run_file.trainer.processes), *module)
    return module


def gang_arguments(num_processes: int) -> tuple[str, ...]:
    """torchrun on this machine. With its own rendezvous a restarted process could read an old address."""
    (port,) = free_ports(1)
    return (
        "torch.distributed.run",
        f"--nproc-per-node={num_processes}",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    )


def _shared_environment(
    run_file: RunFile, folder: RunFolder, run_id: str, redis_url: str, addresses: Mapping[str, str]
) -> dict[str, str]:
    """What every service is told; each reads only the names it knows."""
    doors = {
        "BUFFER": "buffer",
        "REWARD": "reward-front",
        "VERIFIER": "reward-verifier",
        "SANDBOX": "reward-sandbox",
        "JUDGE": "reward-judge",
        "TRAINER": "trainer",
    }
    otlp_endpoint = run_file.telemetry.otlp_endpoint or os.environ.get("FORKLIGHT_OTLP_ENDPOINT", "")
    return {
        "FORKLIGHT_RUN_FILE": str(folder.run_file),
        "FORKLIGHT_RUN_FOLDER": str(folder.path),
        "FORKLIGHT_RUN_ID": run_id,
        "FORKLIGHT_REDIS_URL": redis_url,
        "FORKLIGHT_BLOBS_URL": os.environ.get("FORKLIGHT_BLOBS_URL", folder.blobs.as_uri()),
        "FORKLIGHT_OTLP_ENDPOINT": otlp_endpoint,
        "PYTHONUNBUFFERED": "1",
        "GRPC_ENABLE_FORK_SUPPORT": "false",  # children are exec-ed, never forked on; it warns at each
        **{f"FORKLIGHT_{door}_ADDRESS": addresses[name] for door, name in doors.items()},
    }


def _http_environment(name: str) -> dict[str, str]:
    """FORKLIGHT_HTTP_LISTEN is the first pod's door for clients; the others take the ports behind it."""
    service, _, index = name.partition("-")
    host, _, port = os.environ.get("FORKLIGHT_HTTP_LISTEN", "").rpartition(":")
    if service != "rollout" or not port.isdigit():
        return {}
    return {"FORKLIGHT_HTTP_LISTEN": f"{host}:{int(port) + int(index)}"}


def _metrics_environment(index: int) -> dict[str, str]:
    """FORKLIGHT_METRICS_LISTEN is the first process's, the others take the next ports; 0: any free one."""
    host, _, port = os.environ.get("FORKLIGHT_METRICS_LISTEN", "").rpartition(":")
    if not port.isdigit():
        return {}
    own = free_ports(1)[0] if int(port) == 0 else int(port) + index
    return {"FORKLIGHT_METRICS_LISTEN": f"{host}:{own}"}


def describe_plan(plan: SystemPlan) -> Sequence[str]:
    """One line a process."""
    return [
        f"{process.name:16} {process.address:22} python {' '.join(process.arguments)}"
        for process in plan.processes
    ]
