"""Reads how one run ended: its class before any comparison, and what the first program in the jail
reported.
"""

from __future__ import annotations

import signal

from forklight_reward.sandbox.compare import UnreadableValueError, read_json
from forklight_reward.sandbox.limits import MIB
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Ended
from forklight_reward.sandbox.spec import Limits

COMPILE_ERROR = b'{"compile_error":'
NEARLY_FULL = 0.9


def failure_class(ended: Ended, limits: Limits) -> Class | None:
    """The class of a run that did not end well; None when it did and only its output is in question."""
    if ended.broke is not None:
        return ended.broke
    if ended.report.startswith(COMPILE_ERROR):
        return Class.COMPILE_ERROR
    is_late = ended.usage.cpu_s > limits.cpu_s or ended.usage.wall_s > limits.wall_s
    if is_late or ended.exit_code == 128 + signal.SIGXCPU:
        return Class.TIME_LIMIT
    if ended.exit_code != 0:
        is_full = ended.usage.memory_peak_bytes > NEARLY_FULL * limits.memory_mb * MIB
        return Class.MEMORY_LIMIT if is_full or b"MemoryError" in ended.stderr[-500:] else Class.RUNTIME_ERROR
    return None


def describe(ended: Ended) -> str:
    """The last words of a program that failed."""
    words = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"exit code {ended.exit_code}" + (f": {words[-1][:200]}" if words else "")


def compile_message(ended: Ended) -> str:
    """What the compiler said."""
    try:
        reply = read_json(ended.report.splitlines()[0])
    except (UnreadableValueError, IndexError):
        return "does not compile"
    said = reply.get("compile_error") if isinstance(reply, dict) else None
    return plain_text(said)[:300] if isinstance(said, str) else "does not compile"


def plain_text(text: str) -> str:
    """The same without halves of characters, which no message may carry."""
    return text.encode("utf-8", "replace").decode()
