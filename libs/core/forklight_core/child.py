"""Child processes that do not outlive us: a command line that ends when the process that started it ends.

The kernel's parent-death signal is set by a tiny interpreter that then becomes the real program (same
process id), because `preexec_fn` would fork a process full of threads. The signal follows the starting
*thread*: start children from one that stays.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

LAUNCHER = """
import ctypes, os, sys
number, parent = int(sys.argv[1]), int(sys.argv[2])
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(143)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def die_with_parent(command: Sequence[str], *, signal_number: int = signal.SIGTERM) -> list[str]:
    """The same command, sent the signal by the kernel when this process dies (Linux; elsewhere unguarded)."""
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, str(int(signal_number)), str(os.getpid()), *command]
