"""How a service process starts and ends: SIGTERM and SIGINT set one event, and the service drains."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

from forklight_core.errors import ForklightError

log = logging.getLogger(__name__)

EXIT_BAD_INPUT = 2
EXIT_FAILED = 1


def run_service(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run an async service until it ends or a signal asks it to; exit codes: 0 done, 1 failed, 2 bad input."""
    try:
        asyncio.run(_run(main))
    except ForklightError as error:
        log.error("service stopped", extra={"reason": str(error), "error_type": type(error).__name__})
        sys.exit(EXIT_BAD_INPUT if isinstance(error, ValueError) else EXIT_FAILED)
    except BaseExceptionGroup as group:
        log.error("service stopped", extra={"reason": _first_reason(group)}, exc_info=group)
        sys.exit(EXIT_FAILED)


def _first_reason(group: BaseException) -> str:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return f"{type(group).__name__}: {group}"


async def _run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(stop)


async def sleep_or_stop(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until `stop` or for so long; True when asked to stop."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
