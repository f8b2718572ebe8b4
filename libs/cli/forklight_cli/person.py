"""Who is at the command line, for the run's record of what was asked of it."""

from __future__ import annotations

import getpass
import socket


def who_asks() -> str:
    """The user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "an unknown user"
    return f"command line, {user} on {socket.gethostname()}"
