"""`python -m ...ranks.follower STEPS CONTROL`: a process that does the leader's device work on its own part.

The arguments are two inherited sockets: commands come over the first and are carried out in order by the
main thread, tasks (weights to load beside the work) over the second. It lives no longer than its leader.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import NoReturn

import torch

from forklight_core.errors import ForklightError, UnavailableError
from forklight_core.logs import setup_logging
from forklight_model.model import HybridModel
from forklight_model.parallel import DistributedGather
from forklight_model.same_weights import weights_digest
from forklight_model.shard import Shard
from forklight_rollout.adapters.native.ranks.channel import Channel, FrameKind
from forklight_rollout.adapters.native.ranks.commands import Command, CommandReader, carry_out
from forklight_rollout.adapters.native.ranks.group import enter_group, leave_group
from forklight_rollout.adapters.native.ranks.messages import (
    Answer,
    Build,
    Forget,
    Join,
    Keep,
    Load,
    Task,
    decode_task,
    encode_answer,
)
from forklight_rollout.adapters.native.runner import Runner, RunnerManner
from forklight_rollout.adapters.published import load_weights

log = logging.getLogger(__name__)

CHECKED = struct.Struct("<qq")
"""The number of a check, and the digest of all rows there."""
FAILED = 1
NOTICE_S = 0.2
"""A leader that dies takes its connections along one after another; an error may come before the last."""


def main(arguments: list[str]) -> None:
    steps, control = (Channel(socket.socket(fileno=int(each))) for each in arguments)
    control.send(FrameKind.ANSWER, encode_answer(Answer()))
    join = decode_task(control.receive(FrameKind.TASK))
    if not isinstance(join, Join):
        raise AssertionError(f"the first task is {type(join).__name__}")
    threading.Thread(target=_die_with, args=(steps, join.folder), daemon=True, name="lifeline").start()
    try:
        follower = Follower(join, steps, control)
        follower.prepare()
        follower.follow()
        leave_group()
    except BaseException as error:
        leave_words(join, steps, error)
        raise


def last_words_name(rank: int) -> str:
    """File of a follower's last error."""
    return f"{rank}.error"


def leave_words(join: Join, steps: Channel, error: BaseException) -> None:
    """What ends this process, where the leader looks for it; if there is none, the process ends here."""
    if steps.wait_closed(NOTICE_S):
        _end_alone(join.folder)
    path = Path(join.folder) / last_words_name(join.rank)
    if path.parent.is_dir():
        path.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


class Follower:
    """One process of an engine that is not its first."""

    def __init__(self, join: Join, steps: Channel, control: Channel) -> None:
        setup_logging("rollout", f"{os.environ.get('FORKLIGHT_POD', 'rollout')}-rank{join.rank}")
        self._join, self._steps, self._control = join, steps, control
        self._runner: Runner | None = None
        self._model: HybridModel | None = None
        if join.threads:
            torch.set_num_threads(join.threads)
        enter_group(join)
        self._gather = DistributedGather(Shard(rank=join.rank, size=join.size))

    def prepare(self) -> None:
        """Join, load, build, in the order in which they are asked for."""
        self._answer(Answer())
        while self._runner is None:
            self._answer(self._do(decode_task(self._control.receive(FrameKind.TASK))))
        threading.Thread(target=self._serve, daemon=True, name="tasks").start()

    @torch.inference_mode()
    def follow(self) -> None:
        """Carry out commands until told to end."""
        if self._runner is None:
            raise AssertionError("commands came before the engine was built")
        while True:
            reader = CommandReader(self._steps.receive(FrameKind.COMMANDS))
            while reader.has_more():
                command = reader.command()
                if command is Command.END:
                    return self._runner.close()
                if command is Command.CHECK:
                    digest = int(self._runner.columns.digest())
                    self._steps.send(FrameKind.CHECKED, CHECKED.pack(reader.number(), digest))
                else:
                    carry_out(command, reader, self._runner)

    def _serve(self) -> None:
        """Tasks beside the commands, in a thread of their own. An error here ends the process."""
        if self._join.device == "cuda":
            torch.cuda.set_device(self._join.rank)
        while True:
            try:
                task = decode_task(self._control.receive(FrameKind.TASK))
            except UnavailableError:
                return  # the leader is gone, or done
            try:
                self._answer(self._do(task))
            except BaseException as error:
                log.exception("a task failed")
                leave_words(self._join, self._steps, error)
                os._exit(FAILED)
                raise

    def _do(self, task: Task) -> Answer:
        match task:
            case Load():
                return self._load(task)
            case Build():
                return self._build(task)
            case Keep() | Forget() if self._runner is not None:
                staged = self._runner.staged
                staged.keep() if isinstance(task, Keep) else staged.forget()
                return Answer()
            case _:
                raise AssertionError(f"{type(task).__name__} is not due")

    def _load(self, task: Load) -> Answer:
        """The first weights are those to build with, later ones are staged. What goes wrong is an answer."""
        try:
            if self._runner is not None:
                model = self._runner.staged.load(task.weights)
            else:
                model = self._model = load_weights(
                    task.weights,
                    dtype=getattr(torch, task.dtype),
                    device=self._join.device,
                    shard=self._gather.shard,
                    gather=self._gather,
                )
        except (ForklightError, OSError, RuntimeError, MemoryError) as error:
            return Answer(error=f"{type(error).__name__}: {error}")
        free_bytes = torch.cuda.mem_get_info()[0] if self._join.device == "cuda" else 0
        return Answer(digest=weights_digest(model), free_bytes=free_bytes)

    def _build(self, task: Build) -> Answer:
        if self._model is None:
            raise AssertionError("Build came before Load")
        manner = RunnerManner(uses_graphs=task.uses_graphs, runs_ahead=task.runs_ahead, records_routing=False)
        self._runner = Runner(self._model, task.plan, manner)
        return Answer(mode=self._runner.numeric_mode)

    def _answer(self, answer: Answer) -> None:
        self._control.send(FrameKind.ANSWER, encode_answer(answer))


def _die_with(steps: Channel, folder: str) -> None:
    """A process that waits within a message for a leader that is gone would wait for long."""
    steps.wait_closed()
    _end_alone(folder)


def _end_alone(folder: str) -> NoReturn:
    """The leader is gone: nobody reads last words, and nobody else cleans up."""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
