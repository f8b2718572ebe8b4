"""One killable process that compares with math-verify: JSON lines in, JSON lines out, one call at a time.

Two timers of the kernel end a call, both by CPU time: an alarm that the interpreter sees between two of its
instructions, and one that ends the process, with or without a living parent. The process ends when its
standard input does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from types import FrameType
from typing import BinaryIO

WARM_UP_S = 60.0
MEMORY_BYTES = 2**30


class SoftLimit(BaseException):
    """Not an Exception: the libraries under test swallow those."""


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    raise SoftLimit


def compare(gold: str, answer: str, *, soft_s: float, hard_s: float) -> str:
    """One word: equal, different, unreadable or limit."""
    from forklight_reward.verifier.symbolic import are_equal

    signal.setitimer(signal.ITIMER_PROF, hard_s)
    signal.setitimer(signal.ITIMER_VIRTUAL, soft_s)
    try:
        equal = are_equal(gold, answer)
    except (SoftLimit, MemoryError, RecursionError):
        return "limit"
    except Exception:  # sympy raises anything on odd input; the pair is then not comparable
        return "unreadable"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "unreadable" if equal is None else "equal" if equal else "different"


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer one line per line until the input ends."""
    for line in requests:
        request = json.loads(line)
        word = compare(request["gold"], request["answer"], soft_s=request["soft_s"], hard_s=request["hard_s"])
        replies.write(json.dumps({"call": request["call"], "word": word}).encode() + b"\n")
        replies.flush()


def main() -> None:
    """Close the doors, warm up, say ready, serve."""
    os.nice(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGVTALRM, _on_alarm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    compare("x+1", "1+x", soft_s=WARM_UP_S, hard_s=WARM_UP_S)
    replies.write(b'{"call": -1, "word": "ready"}\n')
    replies.flush()
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
