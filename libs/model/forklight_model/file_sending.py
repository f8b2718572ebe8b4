"""Files from one process to a fixed fleet of others at once, over a process group of their own.

    sender: a store that listens          receivers: connect, take a number
            waits for the fleet, or not for long
            --- members: how many there are --->
    all that are members: one process group, the files' bytes in buckets, an end

Each sending has its own group: whoever dies breaks that one, and no other. Every wait has a deadline, after
which the group is given up. Nobody proves anything here: what arrives is proven by its hashes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, Store, TCPStore

from forklight_core.errors import UnavailableError

BUCKET_BYTES = 32 << 20
POLL_S = 0.05
MEMBERS, JOINED = "members", "joined"
SLACK_S = 5.0
"""For a receiver, on top of the sender's deadlines."""
NCCL_PATIENCE = 10
"""Our own clock gives up a group of NCCL; NCCL's watchdog comes long after that."""
NCCL_ERRORS = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
_ENVIRONMENT = threading.Lock()


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

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.rendezvous.rpartition(":")
        return host, int(port)


class FileSender:
    """The one end. Listens as long as it lives."""

    def __init__(self, rules: SendRules, device: torch.device | None = None) -> None:
        self._rules, self._device = rules, device
        # Its own client goes the shortest way; receivers come to the rendezvous.
        self._store = _connect("127.0.0.1", rules.address[1], rules, is_master=True)

    @property
    def port(self) -> int:
        """Where it listens; of use when the rendezvous left it open (port 0)."""
        return int(self._store.port)

    def send(self, session: str, paths: Sequence[Path], cancelled: threading.Event) -> int:
        """Send the files to whoever has joined the session; to how many. UnavailableError when it broke."""
        store = PrefixStore(session, self._store)
        num_receivers = self._close_list(store, cancelled)
        if not num_receivers or cancelled.is_set():
            return 0
        deadline = Deadline(time.monotonic() + self._rules.deadline_s, cancelled)
        with Group(store, self._rules, (0, num_receivers + 1), self._device, deadline) as group:
            group.send_all(paths)
        return num_receivers

    def _close_list(self, store: Store, cancelled: threading.Event) -> int:
        """Wait for the fleet, then say who is in."""
        last = time.monotonic() + self._rules.join_s
        while (joined := store.add(JOINED, 0)) < self._rules.num_receivers:
            if time.monotonic() > last or cancelled.wait(POLL_S):
                break
        store.set(MEMBERS, str(joined))
        return int(joined)


class FileReceiver:
    """The other end."""

    def __init__(self, rules: SendRules, device: torch.device | None = None) -> None:
        self._rules, self._device = rules, device

    def receive(self, session: str, paths: Sequence[tuple[Path, int]]) -> None:
        """Fill these files, of these sizes. UnavailableError when the sender or another receiver is gone."""
        rules = self._rules
        try:
            store = PrefixStore(session, _connect(*rules.address, rules, is_master=False))
            rank = int(store.add(JOINED, 1))
            store.wait([MEMBERS], timedelta(seconds=rules.join_s + SLACK_S))
            num_members = int(store.get(MEMBERS))
        except RuntimeError as error:
            raise UnavailableError(f"nobody sends {session} at {rules.rendezvous}: {error}") from error
        if rank > num_members:
            raise UnavailableError(f"{session} is being sent to {num_members} others: this process came late")
        deadline = Deadline(time.monotonic() + rules.deadline_s + SLACK_S, threading.Event())
        with Group(store, rules, (rank, num_members + 1), self._device, deadline) as group:
            group.receive_all(paths)


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

    def abort(self) -> None: ...


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
        device = device if self._is_nccl and device is not None else torch.device("cpu")
        self._device, self._is_over = device, threading.Event()
        try:
            self._wire = _open_wire(store, rules, place)
        except RuntimeError as error:
            raise UnavailableError(f"a group of {place[1]} processes did not come about: {error}") from error
        # Two, so that one is read or written while the other is under way.
        self._buckets = [torch.empty(BUCKET_BYTES, dtype=torch.uint8, device=device) for _ in range(2)]

    def __enter__(self) -> Group:
        if self._is_nccl:  # its waits have no end of their own
            threading.Thread(target=self._abort_late, daemon=True, name="sending-deadline").start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        if self._is_nccl:
            self._wire.abort()

    def send_all(self, paths: Sequence[Path]) -> None:
        """Everything in these files, in their order."""
        under_way: list[Work] = []
        for number, data in enumerate(_read_buckets(paths)):
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
                for number, start in enumerate(range(0, size_bytes, BUCKET_BYTES)):
                    bucket = self._buckets[number % 2][: min(BUCKET_BYTES, size_bytes - start)]
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
        """NCCL goes on behind a wait; after an abort it has only stopped."""
        if self._is_nccl:
            torch.cuda.synchronize(self._device)
            self._deadline.rest_s()

    def _abort_late(self) -> None:
        while not self._is_over.wait(POLL_S):
            try:
                self._deadline.rest_s()
            except UnavailableError:
                self._wire.abort()
                return


def _connect(host: str, port: int, rules: SendRules, *, is_master: bool) -> TCPStore:
    timeout = timedelta(seconds=rules.deadline_s if is_master else rules.join_s)
    return TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=timeout)


def _open_wire(store: Store, rules: SendRules, place: tuple[int, int]) -> Wire:
    """Beside the process's own group, if it has one: nothing here touches that."""
    timeout = timedelta(seconds=rules.deadline_s)
    if rules.backend == "nccl":
        from torch._C._distributed_c10d import ProcessGroupNCCL  # not in every build

        options = ProcessGroupNCCL.Options()
        options._timeout = timeout * NCCL_PATIENCE
        with _errors_left_to_us():
            return cast("Wire", ProcessGroupNCCL(store, *place, options))
    return cast("Wire", ProcessGroupGloo(store, *place, timeout))


@contextmanager
def _errors_left_to_us() -> Iterator[None]:
    """By default a group of NCCL ends its process when a peer dies. It reads this once, when it is made."""
    with _ENVIRONMENT:
        before = os.environ.get(NCCL_ERRORS)
        os.environ[NCCL_ERRORS] = "0"
        try:
            yield
        finally:
            os.environ.pop(NCCL_ERRORS)
            if before is not None:
                os.environ[NCCL_ERRORS] = before


def _read_buckets(paths: Sequence[Path]) -> Iterator[Tensor]:
    """Of each file its bytes: a bucket never holds those of two."""
    for path in paths:
        size_bytes = path.stat().st_size
        number = os.open(path, os.O_RDONLY)
        try:
            for start in range(0, size_bytes, BUCKET_BYTES):
                data = bytearray(min(BUCKET_BYTES, size_bytes - start))
                if os.preadv(number, [data], start) != len(data):
                    raise UnavailableError(f"{path} became shorter while it was sent")
                yield torch.frombuffer(data, dtype=torch.uint8)
        finally:
            os.close(number)
