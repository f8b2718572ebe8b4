"""The leader's end of its followers: starting them, telling them, noticing that one is gone, ending them.

A failure is remembered: whatever is asked of the engine afterwards is an UnavailableError that says which
process failed and how. The pod then ends, and its leases go back.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from forklight_core.errors import ForklightError, UnavailableError
from forklight_rollout.adapters.native.ranks.channel import Channel, FrameKind
from forklight_rollout.adapters.native.ranks.commands import Command
from forklight_rollout.adapters.native.ranks.follower import last_words_name
from forklight_rollout.adapters.native.ranks.group import abort_group, enter_group, leave_group
from forklight_rollout.adapters.native.ranks.messages import Answer, Join, Task, decode_answer, encode_task

log = logging.getLogger(__name__)

FOLLOWER: tuple[str, ...] = (sys.executable, "-m", "forklight_rollout.adapters.native.ranks.follower")
START_DEADLINE_S = 300.0
"""Until a process has imported what it needs, on a machine that starts many at once."""
LOOK_EVERY_S = 0.1
NOTICE_S = 1.0
"""A message that breaks is the first sign of a process that died; so long for finding out which."""
END_DEADLINE_S = 10.0
PATIENCE = 0.9
"""A message that breaks after this share of its deadline was waited for in vain."""
END_FRAME = array("q", [Command.END]).tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWish:
    """The processes of an engine."""

    size: int
    device: str  # cuda or cpu
    threads: int
    deadline_s: float  # a process that does not answer for so long has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One follower."""

    rank: int
    process: subprocess.Popen[bytes]
    steps: Channel
    control: Channel


class Followers:
    """Processes 1 to size - 1. Not thread-safe, but for tasks, which have a channel of their own."""

    def __init__(self, wish: GroupWish) -> None:
        self.wish, self.failure = wish, ""
        self._has_failed, self._is_closed = threading.Event(), threading.Event()
        self._has_joined = False
        self.is_following = False
        """They carry out commands, and end when told to."""
        self.release: Callable[[], None] = lambda: None
        """Lets go of what keeps NCCL from leaving."""
        self._folder = Path(tempfile.mkdtemp(prefix="forklight-ranks-"))
        self.members: list[Member] = []
        atexit.register(self.close)
        try:
            for rank in range(1, wish.size):
                self.members.append(_start(rank, wish))
            threading.Thread(target=self._supervise, daemon=True, name="followers").start()
            self._join()
        except BaseException:
            self.close()
            raise

    def tell(self, task: Task) -> None:
        """Every follower begins with a task; `hear` waits for what they say."""
        payload = encode_task(task)
        for member in self.members:
            try:
                member.control.send(FrameKind.TASK, payload)
            except ForklightError as error:
                raise self.explained(error) from error

    def hear(self, deadline_s: float) -> list[Answer]:
        """An answer of each."""
        end = time.monotonic() + deadline_s
        return [self._hear(member, end) for member in self.members]

    def send(self, frame: bytes) -> None:
        """Commands, for all."""
        self.require_sound()
        for member in self.members:
            try:
                member.steps.send(FrameKind.COMMANDS, frame)
            except ForklightError as error:
                raise self.explained(error) from error

    def require_sound(self) -> None:
        """UnavailableError once a process has failed."""
        if self.failure:
            raise UnavailableError(self.failure)

    def fail(self, reason: str) -> None:
        """From now on this is why nothing works."""
        if self._has_failed.is_set() or self._is_closed.is_set():
            return
        self.failure = (
            f"one engine over {self.wish.size} processes has failed: {reason}; the pod has to be restarted"
        )
        self._has_failed.set()
        log.error("engine failed", extra={"reason": reason})
        abort_group()

    def explained(self, error: Exception, waited_s: float = 0.0) -> Exception:
        """What is behind an error: a process that died, or one that was waited for in vain; else itself."""
        if not self._has_failed.wait(NOTICE_S):
            if waited_s > PATIENCE * self.wish.deadline_s:
                self.fail(f"a process does not answer, and has been waited for {waited_s:.0f} s ({error})")
            elif isinstance(error, ForklightError):
                self.fail(str(error))
        return UnavailableError(self.failure) if self.failure else error

    def close(self) -> None:
        """End them all. Safe to call twice."""
        if self._is_closed.is_set():
            return
        self._is_closed.set()
        atexit.unregister(self.close)
        is_orderly = self.is_following and not self._has_failed.is_set()
        for member in self.members:
            try:
                if is_orderly:
                    member.steps.send(FrameKind.COMMANDS, END_FRAME)
                else:
                    member.process.kill()
            except ForklightError as error:
                log.info("a follower was gone before the end", extra={"reason": str(error)})
        self._leave(is_orderly)
        for member in self.members:
            _end(member)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _leave(self, is_orderly: bool) -> None:
        """With a deadline: it may wait for processes that have gone."""
        self.release()
        if self._has_joined:
            leaving = threading.Thread(target=partial(leave_group, is_broken=not is_orderly), daemon=True)
            leaving.start()
            leaving.join(END_DEADLINE_S)
            if leaving.is_alive():
                log.warning("the process group was not left in time", extra={"seconds": END_DEADLINE_S})

    def _join(self) -> None:
        """All enter one process group."""
        self.hear(START_DEADLINE_S)
        joins = [
            Join(
                rank=rank,
                size=self.wish.size,
                device=self.wish.device,
                threads=self.wish.threads,
                timeout_s=self.wish.deadline_s,
                folder=str(self._folder),
            )
            for rank in range(self.wish.size)
        ]
        for member in self.members:
            member.control.send(FrameKind.TASK, encode_task(joins[member.rank]))
        try:
            enter_group(joins[0])
        except RuntimeError as error:
            raise self.explained(error) from error
        self._has_joined = True
        self.hear(self.wish.deadline_s)

    def _hear(self, member: Member, end: float) -> Answer:
        while not member.control.is_readable(LOOK_EVERY_S):
            self.require_sound()
            if time.monotonic() > end:
                self.fail(f"{self._name(member)} does not answer")
        try:
            return decode_answer(member.control.receive(FrameKind.ANSWER))
        except ForklightError as error:
            raise self.explained(error) from error

    def _supervise(self) -> None:
        """In a thread of its own: whoever waits for a process cannot look after it."""
        while not self._is_closed.wait(LOOK_EVERY_S):
            for member in self.members:
                code = member.process.poll()
                if code is not None:
                    self.fail(f"{self._name(member)} {_describe(code)}{self._last_words(member)}")

    def _name(self, member: Member) -> str:
        place = f" on GPU {member.rank}" if self.wish.device == "cuda" else ""
        return f"process {member.rank}{place} (pid {member.process.pid})"

    def _last_words(self, member: Member) -> str:
        path = self._folder / last_words_name(member.rank)
        return f": {path.read_text(encoding='utf-8')}" if path.exists() else ""


def _start(rank: int, wish: GroupWish) -> Member:
    """In a session of its own: a Ctrl-C is for the leader, which lets samples end first."""
    ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
    handles = [end.fileno() for end in theirs]
    process = subprocess.Popen(
        [*FOLLOWER, *map(str, handles)], pass_fds=handles, stdin=subprocess.DEVNULL, start_new_session=True
    )
    for end in theirs:
        end.close()
    steps, control = (Channel(end, timeout_s=wish.deadline_s) for end in ours)
    return Member(rank=rank, process=process, steps=steps, control=control)


def _end(member: Member) -> None:
    try:
        member.process.wait(END_DEADLINE_S)
    except subprocess.TimeoutExpired:
        member.process.kill()
        member.process.wait()
    member.steps.close()
    member.control.close()


def _describe(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
