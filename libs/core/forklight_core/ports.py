"""Free loopback ports that stay ours.

They lie below the range the system gives to outgoing connections. A port inside it may be taken by anybody's
connection while its owner is being started again, and a client that keeps connecting can even reach itself.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from forklight_core.errors import BusyError

LOWEST = 10_000
USUAL_OUTGOING = 32_768
TRIES_A_PORT = 200
_OUTGOING_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(number: int) -> list[int]:
    """Different ports that nobody listens on right now."""
    highest = _first_outgoing() - 1
    with contextlib.ExitStack() as probes:
        return [_probe(probes, highest) for _ in range(number)]


def _probe(probes: contextlib.ExitStack, highest: int) -> int:
    for _ in range(TRIES_A_PORT):
        port = random.randint(LOWEST, highest)
        with contextlib.suppress(OSError):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", port))
            return port
    raise BusyError(f"no free port on loopback between {LOWEST} and {highest} in {TRIES_A_PORT} tries")


def _first_outgoing() -> int:
    try:
        first = int(_OUTGOING_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return USUAL_OUTGOING
    return first if first > 2 * LOWEST else USUAL_OUTGOING
