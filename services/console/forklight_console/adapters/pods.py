"""Rollout pods by their doors: those of system.json, or every address behind one name (headless service)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import grpc.aio

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_console.ports import PodAnswer
from forklight_core.errors import DeadlineError, ForklightError, UnavailableError
from forklight_core.rpc import open_channel

CALL_DEADLINE_S = 2.0
MOST_AT_ONCE = 32
LOCAL_PREFIX = "rollout-"


class GrpcPods:
    """Asks every pod at once, at most so many in flight; a channel lives as long as its pod is listed."""

    def __init__(self, run_folder: Path, rollout_address: str = "") -> None:
        self._system_path = run_folder / "system.json"
        self._rollout_address = rollout_address
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._free = asyncio.Semaphore(MOST_AT_ONCE)

    async def ask(self) -> Sequence[PodAnswer]:
        """Each answer, or why there is none; by name."""
        addresses = await self._addresses()
        for address in self._channels.keys() - set(addresses.values()):
            await self._channels.pop(address).close(None)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(*each)) for each in addresses.items()]
        return sorted((task.result() for task in tasks), key=lambda answer: answer.name)

    async def close(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()

    async def _ask(self, name: str, address: str) -> PodAnswer:
        async with self._free:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = open_channel(
                    address, server_name=self._rollout_address.rpartition(":")[0]
                )
            stub = cast("rollout_pb2_grpc.RolloutAsyncStub", rollout_pb2_grpc.RolloutStub(channel))
            try:
                reply = await stub.GetRolloutStatus(
                    rollout_pb2.GetRolloutStatusRequest(), timeout=CALL_DEADLINE_S
                )
            except (UnavailableError, DeadlineError) as error:
                return PodAnswer(name=name, address=address, problem=f"does not answer: {error}")
            except ForklightError as error:
                return PodAnswer(name=name, address=address, problem=str(error))
        return PodAnswer(name=reply.pod or name, address=address, reply=reply)

    async def _addresses(self) -> Mapping[str, str]:
        if not self._rollout_address:
            return await asyncio.to_thread(local_pods, self._system_path)
        host, _, port = self._rollout_address.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            return {}
        hosts = sorted({str(each[4][0]) for each in found})
        return {each: f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts}


def local_pods(system_path: Path) -> Mapping[str, str]:
    """Addresses of the rollout processes that the supervisor started; none before it did."""
    try:
        addresses = json.loads(system_path.read_text(encoding="utf-8")).get("addresses", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return {
        str(name): str(address)
        for name, address in (addresses.items() if isinstance(addresses, dict) else ())
        if str(name).startswith(LOCAL_PREFIX)
    }
