"""Deployment settings of the console, read from the environment (FORKLIGHT_<FIELD>)."""

from __future__ import annotations

from forklight_core.settings import ServiceSettings


class ConsoleSettings(ServiceSettings):
    """What the console is told by its environment."""

    listen: str = "127.0.0.1:7117"
    """host:port of the page. It has no log-in: keep it on loopback, or behind a proxy that has one."""
    buffer_address: str
    """host:port of the buffer."""
