"""A process group of its own for one sending: buckets of bytes from rank 0 to all others.

gloo lives in whichever process asks. NCCL ends its process when a peer dies, so its groups are made in a
child (`sending_apart.py`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor
from torch._C._distributed_c10d import ProcessGroupGloo, Store, TCPStore

from forklight_core.errors import UnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRules:
    """What both ends are told."""

    rendezvous: str
    """host:port of the sender."""
    backend: str = "gloo"
    num_receivers: int = 1
    """Waited for; more are let in as long as it waits."""
    join_s: float = 10.0
    deadline_s: float = 60.0
    bucket_bytes: int = 32 << 20
    """Of one message."""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.rendezvous.rpartition(":")
        return host, int(port)

    @property
    def is_apart(self) -> bool:
        """Whether each end is a process of its own: NCCL ends its process when a peer dies."""
        return self.backend == "nccl"


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a group is given up."""

    end: float
    cancelled: threading.Event

    def rest_s(self) -> float:
        """What is left; UnavailableError when nothing is."""
        rest_s = self.end - time.monotonic()
        if rest_s <= 0 or self.cancelled.is_set():
            raise UnavailableError("sending is given up: " + ("too slow" if rest_s <= 0 else "cancelled"))
        return rest_s


class Work(Protocol):
    """A bucket under way."""

    def wait(self, timeout: timedelta) -> bool: ...


class Wire(Protocol):
    """What is needed of torch's groups."""

    def broadcast(self, tensor: Tensor, root: int) -> Work: ...


class Group:
    """Some processes that pass buckets of bytes on, from rank 0 to all others."""

    def __init__(
        self,
        store: Store,
        rules: SendRules,
        place: tuple[int, int],
        device: torch.device | None,
        deadline: Deadline,
    ) -> None:
        self._deadline, self._is_nccl = deadline, rules.backend == "nccl"
        self._bucket_bytes = rules.bucket_bytes
        device = device if self._is_nccl and device is not None else torch.device("cpu")
        self._device = device
        try:
            self._wire = _open_wire(store, rules, place)
        except RuntimeError as error:
            raise UnavailableError(f"a group of {place[1]} processes did not come about: {error}") from error
        # Two, so that one is read or written while the other is under way.
        self._buckets = [torch.empty(rules.bucket_bytes, dtype=torch.uint8, device=device) for _ in range(2)]

    def send_all(self, paths: Sequence[Path]) -> None:
        """Everything in these files, in their order."""
        under_way: list[Work] = []
        for number, data in enumerate(_read_buckets(paths, self._bucket_bytes)):
            if len(under_way) == 2:
                self._wait(under_way.pop(0))
            bucket = self._buckets[number % 2][: len(data)]
            bucket.copy_(data)
            under_way.append(self._pass_on(bucket))
        for work in under_way:
            self._wait(work)
        self._settle()

    def receive_all(self, paths: Sequence[tuple[Path, int]]) -> None:
        """Into these files, of these sizes."""
        for path, size_bytes in paths:
            with path.open("wb") as file:
                before: tuple[Tensor, Work] | None = None
                for number, start in enumerate(range(0, size_bytes, self._bucket_bytes)):
                    bucket = self._buckets[number % 2][: min(self._bucket_bytes, size_bytes - start)]
                    work = self._pass_on(bucket)
                    if before is not None:
                        self._wait(before[1])
                        file.write(before[0].cpu().numpy().data)
                    before = bucket, work
                if before is not None:
                    self._wait(before[1])
                    file.write(before[0].cpu().numpy().data)
        self._settle()

    def _pass_on(self, bucket: Tensor) -> Work:
        self._deadline.rest_s()
        try:
            return self._wire.broadcast(bucket, 0)
        except RuntimeError as error:
            raise UnavailableError(f"sending broke off: {error}") from error

    def _wait(self, work: Work) -> None:
        rest_s = self._deadline.rest_s()
        try:
            work.wait(timedelta(seconds=rest_s))
        except RuntimeError as error:
            raise UnavailableError(f"sending broke off: {error}") from error

    def _settle(self) -> None:
        """NCCL goes on behind a wait."""
        if self._is_nccl:
            torch.cuda.synchronize(self._device)


def connect(host: str, port: int, rules: SendRules, *, is_master: bool) -> TCPStore:
    timeout = timedelta(seconds=rules.deadline_s if is_master else rules.join_s)
    return TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=timeout)


def _open_wire(store: Store, rules: SendRules, place: tuple[int, int]) -> Wire:
    """Beside the process's own group, if it has one: nothing here touches that."""
    timeout = timedelta(seconds=rules.deadline_s)
    if rules.backend == "nccl":
        from torch._C._distributed_c10d import ProcessGroupNCCL  # not in every build

        options = ProcessGroupNCCL.Options()
        options._timeout = timeout
        return cast("Wire", ProcessGroupNCCL(store, *place, options))
    return cast("Wire", ProcessGroupGloo(store, *place, timeout))


def _read_buckets(paths: Sequence[Path], bucket_bytes: int) -> Iterator[Tensor]:
    """Of each file its bytes: a bucket never holds those of two."""
    for path in paths:
        size_bytes = path.stat().st_size
        number = os.open(path, os.O_RDONLY)
        try:
            for start in range(0, size_bytes, bucket_bytes):
                data = bytearray(min(bucket_bytes, size_bytes - start))
                if os.preadv(number, [data], start) != len(data):
                    raise UnavailableError(f"{path} became shorter while it was sent")
                yield torch.frombuffer(data, dtype=torch.uint8)
        finally:
            os.close(number)
