"""How a service process starts and ends: SIGTERM and SIGINT set one event, and the service drains."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from forklight_core.errors import ConfigError, ForklightError
from forklight_core.logs import setup_logging
from forklight_core.settings import ServiceSettings, describe_settings, load_settings
from forklight_core.telemetry import setup_telemetry

log = logging.getLogger(__name__)

EXIT_BAD_INPUT = 2
EXIT_FAILED = 1


Settings = TypeVar("Settings", bound=ServiceSettings)


def start_service(
    service: str,
    about: str,
    settings_class: type[Settings],
    run: Callable[[Settings, asyncio.Event], Awaitable[None]],
) -> None:
    """What every `__main__` does: --help, settings, logs, telemetry, then run until told to stop."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{about}\n\nEnvironment:\n{describe_settings(settings_class)}\n")
        return
    try:
        settings = load_settings(settings_class)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_BAD_INPUT)
    settings = settings.model_copy(update={"pod": settings.pod or f"{service}-{os.getpid()}"})
    setup_logging(service, settings.pod)
    shutdown = setup_telemetry(service, settings.pod, settings.otlp_endpoint)
    try:
        run_service(lambda stop: run(settings, stop))
    finally:
        shutdown()


def run_service(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until the service ends or a signal asks it to; exit codes: 0 done, 1 failed, 2 bad input."""
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
