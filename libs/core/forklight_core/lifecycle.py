"""How a service process starts and ends: SIGTERM and SIGINT set one event, and the service drains."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from forklight_core.errors import ConfigError, ForklightError
from forklight_core.logs import setup_logging
from forklight_core.rpc.identity import find_identity
from forklight_core.settings import ServiceSettings, describe_settings, load_settings
from forklight_core.telemetry import Destinations, setup_telemetry

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
        find_identity()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_BAD_INPUT)
    settings = settings.model_copy(update={"pod": settings.pod or f"{service}-{os.getpid()}"})
    setup_logging(service, settings.pod)
    to = Destinations(otlp_endpoint=settings.otlp_endpoint, metrics_listen=settings.metrics_listen)
    shutdown = setup_telemetry(service, settings.pod, to, settings.run_id)
    try:
        run_service(lambda stop: run(settings, stop), stop_within_s=settings.stop_within_s)
    finally:
        shutdown()


def run_service(main: Callable[[asyncio.Event], Awaitable[None]], *, stop_within_s: float = 0.0) -> None:
    """Run until the service ends or a signal asks it to; exit codes: 0 done, 1 failed, 2 bad input.

    With `stop_within_s`, a process that was told to stop is gone after so long whatever it waits for: a rank
    whose peers are dead, a disk that hangs. What is durable is as after a crash.
    """
    try:
        asyncio.run(_run(main, stop_within_s))
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


async def _run(main: Callable[[asyncio.Event], Awaitable[None]], stop_within_s: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def leave() -> None:
        if stop_within_s and not stop.is_set():
            _end_after(stop_within_s)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    await main(stop)


def _end_after(seconds: float) -> None:
    """In a thread of its own: the loop may be what hangs."""

    def end() -> None:
        log.error("still running when it had to be gone", extra={"stop_within_s": seconds})
        os._exit(EXIT_FAILED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def sleep_or_stop(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until `stop` or for so long; True when asked to stop."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
