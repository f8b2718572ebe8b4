"""Files from one process to a fixed fleet of others at once, over a process group of their own.

    sender: a store that listens          receivers: connect, take a number
            waits for the fleet, or not for long
            --- members: how many there are --->
    all that are members: one process group, the files' bytes in buckets, an end

Each sending has its own group: whoever dies breaks that one, and no other. Every wait has a deadline, after
which the group is given up. Nobody proves anything here: what arrives is proven by its hashes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch._C._distributed_c10d import PrefixStore, Store

from forklight_core.errors import UnavailableError
from forklight_model.sending_apart import Errand, run_apart
from forklight_model.sending_group import Deadline, SendRules, connect

POLL_S = 0.05
MEMBERS, JOINED = "members", "joined"
SLACK_S = 5.0
"""For a receiver, on top of the sender's deadlines."""


class FileSender:
    """The one end. Listens as long as it lives."""

    def __init__(self, rules: SendRules, device: torch.device | None = None) -> None:
        self._rules, self._device = rules, device
        # Its own client goes the shortest way; receivers come to the rendezvous.
        self._store = connect("127.0.0.1", rules.address[1], rules, is_master=True)

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
        errand = Errand(
            rules=replace(self._rules, rendezvous=f"127.0.0.1:{self.port}"),
            session=session,
            rank=0,
            num_members=num_receivers + 1,
            paths=tuple((str(path), path.stat().st_size) for path in paths),
            device=str(self._device or "cpu"),
        )
        deadline = Deadline(time.monotonic() + self._rules.deadline_s, cancelled)
        _do(errand, self._store, deadline)
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
            listening = connect(*rules.address, rules, is_master=False)
            store = PrefixStore(session, listening)
            rank = int(store.add(JOINED, 1))
            store.wait([MEMBERS], timedelta(seconds=rules.join_s + SLACK_S))
            num_members = int(store.get(MEMBERS))
        except RuntimeError as error:
            raise UnavailableError(f"nobody sends {session} at {rules.rendezvous}: {error}") from error
        if rank > num_members:
            raise UnavailableError(f"{session} is being sent to {num_members} others: this process came late")
        errand = Errand(
            rules=rules,
            session=session,
            rank=rank,
            num_members=num_members + 1,
            paths=tuple((str(path), size) for path, size in paths),
            device=str(self._device or "cpu"),
        )
        _do(errand, listening, Deadline(time.monotonic() + rules.deadline_s + SLACK_S, threading.Event()))


def _do(errand: Errand, store: Store, deadline: Deadline) -> None:
    if errand.rules.is_apart:
        run_apart(errand, deadline)
    else:
        errand.do(store, deadline)
