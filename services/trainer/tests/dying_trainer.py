"""A trainer that kills itself at the n-th thing it does to the disk or says to the buffer: a program.

Reads one JSON line a trainer from stdin ({"settings": ..., "die_at": n or null}) and answers with one: how it
ended, and how many such moments it had. Everything is imported once, and every trainer is a fork of that: a
process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from forklight_trainer.adapters.grpc_buffer import GrpcBuffer
from forklight_trainer.app import run
from forklight_trainer.checkpoints import snapshot
from forklight_trainer.checkpoints.parts import StatePart
from forklight_trainer.checkpoints.snapshot import HostBuffers
from forklight_trainer.settings import TrainerSettings

DISK_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "shutil.copyfile"}
BUFFER_CALLS = ("restore_trainer", "lease_batch", "commit_steps", "announce_version")


class Reaper:
    """Counts moments, over all threads, and kills the process at one of them."""

    def __init__(self, die_at: int | None, tally: Path) -> None:
        self._die_at, self._tally = die_at, tally
        self._lock = threading.Lock()
        self._num_moments = 0

    def pass_moment(self) -> None:
        with self._lock:
            self._num_moments += 1
            if self._num_moments == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def note(self) -> None:
        self._tally.write_text(str(self._num_moments))

    def stand_around(self, owner: Any, name: str) -> None:
        """Every call of it is two moments: before and after."""
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self.pass_moment()
            result = original(*args, **options)
            self.pass_moment()
            return result

        setattr(owner, name, call)

    def watch(self, folder: Path) -> None:
        """The disk below a folder, flushes, copies into a snapshot, calls to the buffer."""

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            is_written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            if (event in DISK_EVENTS or is_written) and str(arguments[0]).startswith(str(folder)):
                self.pass_moment()

        sys.addaudithook(hear)
        self.stand_around(os, "fsync")
        self.stand_around(HostBuffers, "hold")
        self.stand_around(snapshot, "write_parts")
        self._interrupt_copies()
        for name in BUFFER_CALLS:
            self.stand_around(GrpcBuffer, name)

    def _interrupt_copies(self) -> None:
        """A moment in the middle of a snapshot."""
        copy = HostBuffers._copy

        def copy_one(buffers: HostBuffers, part: StatePart) -> torch.Tensor:
            if part.name == "model.norm.weight":
                self.pass_moment()
            return copy(buffers, part)

        HostBuffers._copy = copy_one  # type: ignore[method-assign]


def train(settings: TrainerSettings, reaper: Reaper) -> None:
    torch.use_deterministic_algorithms(True)
    reaper.watch(settings.run_folder)
    run(settings, threading.Event())
    reaper.note()


def main() -> None:
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # its first use imports for seconds
    for line in sys.stdin:
        order = json.loads(line)
        settings = TrainerSettings.model_validate(order["settings"])
        tally = settings.run_folder.with_suffix(".tally")
        tally.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            sys.stdin.close()
            train(settings, Reaper(order["die_at"], tally))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        num_moments = int(tally.read_text()) if tally.exists() else None
        answer = {"code": os.waitstatus_to_exitcode(status), "num_moments": num_moments}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
