"""One end of a sending, here or in a child process: what ends the child ends nothing else.

run_apart --errand--> python -m forklight_model.sending_apart --group--> the other ends
          <--exit code, last words--
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import IO, Self

import torch
from torch._C._distributed_c10d import PrefixStore, Store

from forklight_core.child import die_with_parent
from forklight_core.errors import UnavailableError
from forklight_model.sending_group import Deadline, Group, SendRules, connect

POLL_S = 0.05
MOST_WORDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What one end does, in plain data. Rank 0 sends, all others receive."""

    rules: SendRules
    """Their rendezvous is where the store of the sessions is, seen from here."""
    session: str
    rank: int
    num_members: int
    paths: tuple[tuple[str, int], ...]
    """Files and their sizes."""
    device: str = "cpu"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `write` wrote."""
        found = json.loads(text)
        paths = tuple((path, size) for path, size in found.pop("paths"))
        return cls(rules=SendRules(**found.pop("rules")), paths=paths, **found)

    def write(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    def do(self, store: Store, deadline: Deadline) -> None:
        """UnavailableError when a peer is gone or too slow."""
        place, device = (self.rank, self.num_members), torch.device(self.device)
        group = Group(PrefixStore(self.session, store), self.rules, place, device, deadline)
        if self.rank:
            group.receive_all([(Path(path), size) for path, size in self.paths])
        else:
            group.send_all([Path(path) for path, _ in self.paths])


def run_apart(errand: Errand, deadline: Deadline) -> None:
    """Do it in a child that is killed at the deadline; UnavailableError says how it ended."""
    command = die_with_parent(
        [sys.executable, "-m", "forklight_model.sending_apart"], signal_number=signal.SIGKILL
    )
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as said:
        asked.write(errand.write())
        asked.seek(0)
        child = subprocess.Popen(command, stdin=asked, stdout=subprocess.DEVNULL, stderr=said)
        try:
            while child.poll() is None:
                rest_s = deadline.rest_s()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(min(POLL_S, rest_s))
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            raise UnavailableError(f"sending broke off ({child.returncode}): {_last_words(said)}")


def _last_words(said: IO[str]) -> str:
    said.seek(0)
    lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    return lines[-1][:MOST_WORDS] if lines else "the process that did it said nothing"


def main() -> None:
    """The child."""
    errand = Errand.parse(sys.stdin.read())
    try:
        store = connect(*errand.rules.address, errand.rules, is_master=False)
        errand.do(store, Deadline(time.monotonic() + errand.rules.deadline_s, Event()))
    except (UnavailableError, RuntimeError, OSError) as error:
        sys.stderr.write(f"\n{' '.join(str(error).split())}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # at once: NCCL's own end would wait for peers


if __name__ == "__main__":
    main()
