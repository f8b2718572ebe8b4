"""Carries out the commands of sessions. What a folder holds follows from its beginning and the commands
given, so nothing is lost with a process: what is kept here only saves doing it again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass

from forklight_core.errors import InvalidInputError
from forklight_core.wire import Session
from forklight_reward.sandbox.outcome import failure_class
from forklight_reward.sandbox.program import KEPT_BYTES, ProgramRun
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Job, JobKind, Runner
from forklight_reward.sandbox.session.tree import (
    MAX_TREE_BYTES,
    MAX_TREE_FILES,
    Tree,
    changes_between,
    fenced,
    keep,
    read_workspace,
)
from forklight_reward.sandbox.spec import Limits, Spec

FOLDER = "work"
"""The working folder of a command, beside which it may leave anything: only this folder is kept."""
ENTER = f'mkdir -p {FOLDER} && cd {FOLDER} && exec sh -c "$0"'
LIMITS = Limits(memory_mb=1024, pids=64, output_bytes=32 * 2**20, disk_mb=256)
"""Output counts by stream; what is collected is one of them, so a folder has at most so many bytes."""
MAX_COMMANDS = 1000
MAX_TIMEOUT_S = 300.0
KEPT_TREES_BYTES = 256 * 2**20
TOO_LARGE = b"\nerror: the folder is too large to be kept, so the command changed nothing\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A folder, and what the command before it printed."""

    tree: Tree
    run: ProgramRun


class Sessions:
    """Every session of a sandbox; safe to use from several threads."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._lock = threading.Lock()
        self._trees: OrderedDict[str, Tree] = OrderedDict()
        self._num_bytes = 0

    def act(self, workspace_json: str, session: Session) -> ProgramRun:
        """What the last command prints. UnavailableError when the sandbox failed, never because of it."""
        check_session(session)
        if not session.commands:
            raise InvalidInputError("session: there is no command to carry out")
        tree = self._tree_after(workspace_json, session, len(session.commands) - 1)
        step = self._step(tree, session.commands[-1], session.timeout_s)
        self._remember(key_of(workspace_json, session, len(session.commands)), step.tree)
        return step.run

    def patch(self, workspace_json: str, session: Session) -> str:
        """What all commands together have changed, as a unified diff."""
        check_session(session)
        tree = self._tree_after(workspace_json, session, len(session.commands))
        return changes_between(read_workspace(workspace_json), tree)

    def answered(self, spec: Spec, session: Session) -> Spec:
        """A repository task, answered by what the session changed; by what was said if it changed nothing."""
        if spec.repo_tests is None or not session.commands:
            return spec
        patch = self.patch(json.dumps(spec.repo_tests.files, sort_keys=True), session)
        return spec.model_copy(update={"source": fenced(patch) if patch else spec.source})

    def _tree_after(self, workspace_json: str, session: Session, num_commands: int) -> Tree:
        """From the newest folder that is still known, by what was done since."""
        num_known, tree = num_commands, None
        while num_known and tree is None:
            tree = self._recall(key_of(workspace_json, session, num_known))
            num_known -= tree is None
        if tree is None:
            tree = read_workspace(workspace_json)
        for number in range(num_known, num_commands):
            tree = self._step(tree, session.commands[number], session.timeout_s).tree
            self._remember(key_of(workspace_json, session, number + 1), tree)
        return tree

    def _step(self, tree: Tree, command: str, timeout_s: float) -> Step:
        """One command in a fresh place. One that ran into a limit has changed nothing."""
        limits = LIMITS.model_copy(update={"cpu_s": timeout_s, "wall_s": timeout_s})
        job = Job(
            kind=JobKind.COMMAND,
            limits=limits,
            files={f"{FOLDER}/{path}": body for path, body in tree.items()},
            command=("sh", "-c", ENTER, command),
            collect=(FOLDER,),
        )
        ended = self.runner.run(job)
        failure, stderr = failure_class(ended, limits), ended.stderr
        if ended.broke is None:
            kept = keep(ended.files, FOLDER)
            if len(kept) <= MAX_TREE_FILES and size_of(kept) <= MAX_TREE_BYTES:
                tree = kept
            else:
                failure, stderr = Class.MEMORY_LIMIT, stderr + TOO_LARGE
        run = ProgramRun(
            failure=failure,
            stdout=ended.stdout[:KEPT_BYTES],
            stderr=stderr[-KEPT_BYTES:],
            stdout_bytes=len(ended.stdout),
            stderr_bytes=len(stderr),
            wall_s=ended.usage.wall_s,
        )
        return Step(tree=tree, run=run)

    def _recall(self, key: str) -> Tree | None:
        with self._lock:
            if key in self._trees:
                self._trees.move_to_end(key)
            return self._trees.get(key)

    def _remember(self, key: str, tree: Tree) -> None:
        with self._lock:
            if key not in self._trees:
                self._num_bytes += size_of(tree)
            self._trees[key] = tree
            self._trees.move_to_end(key)
            while self._num_bytes > KEPT_TREES_BYTES:
                _, oldest = self._trees.popitem(last=False)
                self._num_bytes -= size_of(oldest)


def check_session(session: Session) -> None:
    """Refuse what no policy could have asked for."""
    if len(session.commands) > MAX_COMMANDS:
        raise InvalidInputError(
            f"session: {len(session.commands)} commands; at most {MAX_COMMANDS} are carried out"
        )
    if not 0 < session.timeout_s <= MAX_TIMEOUT_S:
        raise InvalidInputError(
            f"session: timeout_s is {session.timeout_s}; it must lie in (0, {MAX_TIMEOUT_S:g}]"
        )
    if any("\0" in command for command in session.commands):
        raise InvalidInputError("session: a command has a NUL character")


def key_of(workspace_json: str, session: Session, num_commands: int) -> str:
    """Name of the folder after so many commands: a hash of all that it follows from."""
    digest = hashlib.sha256(f"{session.timeout_s!r}\n".encode())
    for part in (workspace_json, *session.commands[:num_commands]):
        data = part.encode("utf-8", "replace")
        digest.update(f"{len(data)}\n".encode() + data)
    return digest.hexdigest()


def size_of(tree: Tree) -> int:
    """Bytes of all files and their names."""
    return sum(len(path) + len(body) for path, body in tree.items())
