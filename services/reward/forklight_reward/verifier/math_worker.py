"""One killable process that compares with math-verify: JSON lines in, JSON lines out, one call at a time.

Three clocks end a call: a soft alarm here, the parent's SIGKILL, and a CPU timer of the kernel that needs
neither a living parent nor the interpreter's lock. The process ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from types import FrameType
from typing import BinaryIO

SOFT_LIMIT_S = 2.0
CPU_LIMIT_S = 8.0
MEMORY_BYTES = 2**30


class SoftLimit(BaseException):
    """Not an Exception: the libraries under test swallow those."""


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    raise SoftLimit


def compare(gold: str, answer: str) -> str:
    """One word: equal, different, unreadable or limit."""
    from forklight_reward.verifier.symbolic import are_equal

    signal.setitimer(signal.ITIMER_REAL, SOFT_LIMIT_S)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        equal = are_equal(gold, answer)
    except (SoftLimit, MemoryError, RecursionError):
        return "limit"
    except Exception:  # sympy raises anything on odd input; the pair is then not comparable
        return "unreadable"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "unreadable" if equal is None else "equal" if equal else "different"


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer one line per line until the input ends."""
    for line in requests:
        request = json.loads(line)
        word = compare(request["gold"], request["answer"])
        replies.write(json.dumps({"call": request["call"], "word": word}).encode() + b"\n")
        replies.flush()


def main() -> None:
    """Close the doors, warm up, say ready, serve."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    compare("x+1", "1+x")
    replies.write(b'{"call": -1, "word": "ready"}\n')
    replies.flush()
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
