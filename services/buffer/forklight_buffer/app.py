"""The buffer, running. Loops and doors of one process:

gRPC door --- submit_trajectory, submit_verdict, save_segment: one script each, no lock
    |    `--- restore, lease, commit, announce, phase: one at a time, under `turn`
    v
Redis (open)  --ended-->  journal loop  -->  ledger.sqlite (final)  -->  Redis forgets
    ^                                            |
    |--- opener loop  <--credit--  ledger rows   |--- evaluation: complete rounds, the goal, the last round
    |--- reaper loop (dead letters)              `--- retention loop (blobs)
    |--- watchdog and gauges
    `--- recovery loop: Redis restarted -> gate shut -> reconcile with the ledger -> gate open
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from forklight.v1 import buffer_pb2_grpc, externalscaler_pb2_grpc
from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.assembly import Buffer, Outside, build
from forklight_buffer.gauges import record_gauges
from forklight_buffer.scaler import SCALER_SERVICE, Scaler, ScalerServicer
from forklight_buffer.servicer import BufferServicer, Desks
from forklight_buffer.settings import BufferSettings
from forklight_buffer.signals import Signal
from forklight_core.blobs import open_blob_store
from forklight_core.errors import BusyError, UnavailableError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.queues import connect_redis
from forklight_core.retry import TRANSIENT, backoff_delays
from forklight_core.rpc import Registration, serve
from forklight_core.runfile import load_run_file

log = logging.getLogger(__name__)

SERVICE = "forklight.v1.Buffer"
IDLE_S = 1.0
GATHER_S = 0.05
"""What moves within it is looked at together: every sample of a busy run wakes these loops several times."""
SLOW_LOOP_S = 10.0
WATCH_S = 5.0


async def run(settings: BufferSettings, stop: asyncio.Event) -> None:
    """Serve a run until asked to stop; then finish what runs, journal what has ended, and close."""
    with _only_one(settings.run_folder):
        async with _open_buffer(settings) as buffer:
            servicer = BufferServicer(buffer.context, desks_of(buffer))
            registration = Registration(buffer_pb2_grpc.add_BufferServicer_to_server, servicer, SERVICE)
            scaler = _scaler_of(buffer, stop)
            opening = serve(
                settings.listen,
                [registration, scaler],
                serving=False,
                stop=stop,
                health_listen=settings.health_listen,
            )
            async with opening as server:
                if await _recover_until_done(buffer, stop):
                    await buffer.resume_after_start()
                    await server.set_serving(True)
                    await _run_loops(buffer, stop)
            await servicer.drain()
            await buffer.lookup.close()
            await _flush_last(buffer)


def _scaler_of(buffer: Buffer, stop: asyncio.Event) -> Registration:
    servicer = ScalerServicer(buffer.context, Scaler(buffer.context, buffer.entries), stop)
    return Registration(
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server, servicer, SCALER_SERVICE
    )


@contextmanager
def _only_one(run_folder: Path) -> Iterator[None]:
    """Two writers of a sample's state would be none: one buffer a run folder."""
    run_folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_folder / "buffer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(f"another buffer serves {run_folder}: stop it first, a run has one writer") from None
    try:
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _open_buffer(settings: BufferSettings) -> AsyncIterator[Buffer]:
    run_file = load_run_file(settings.run_file)
    redis = connect_redis(settings.redis_url)
    ledger = SqliteLedger(settings.run_folder / "ledger.sqlite")
    try:
        outside = Outside(
            redis=redis,
            ledger=ledger,
            blobs=open_blob_store(settings.blobs_url),
            clock=time.time,
            blob_margin_s=settings.blob_margin_s,
        )
        yield build(settings.run_id, settings.run_folder, run_file, outside)
    finally:
        await redis.aclose()
        ledger.close()


def desks_of(buffer: Buffer) -> Desks:
    """Who answers at the door."""
    return Desks(
        intake=buffer.intake,
        segments=buffer.segments,
        batches=buffer.batches,
        restorer=buffer.restorer,
        versions=buffer.versions,
        phases=buffer.phases,
        inspection=buffer.inspection,
        lookup=buffer.lookup,
        dead_letters=buffer.dead_letters,
        steering=buffer.steering,
    )


async def _recover_until_done(buffer: Buffer, stop: asyncio.Event) -> bool:
    """Reconcile, however long Redis is away; False when asked to stop first."""
    for delay_s in backoff_delays():
        try:
            await buffer.recover()
        except TRANSIENT as error:
            log.warning("reconciliation has to wait", extra={"reason": str(error)})
            if await sleep_or_stop(stop, delay_s):
                return False
        else:
            return True
    raise AssertionError("backoff_delays never ends")


async def _run_loops(buffer: Buffer, stop: asyncio.Event) -> None:
    lost = asyncio.Event()
    buffer.gate.on_close = lost.set
    context, watchdog = buffer.context, buffer.watchdog
    async with asyncio.TaskGroup() as group:
        group.create_task(_recover_when_lost(buffer, lost, stop))
        group.create_task(_on_signal(context.ended, buffer_journal(buffer), stop))
        group.create_task(_on_signal(context.credit, buffer.opener.open_groups, stop))
        group.create_task(_every(IDLE_S, buffer.last_round.look, stop))
        group.create_task(_every(context.run_file.buffer.lease_s / 3, buffer.reaper.reap, stop))
        group.create_task(_every(WATCH_S, watchdog.watch, stop))
        group.create_task(_every(WATCH_S, lambda: record_gauges(context, buffer.entries), stop))
        group.create_task(_every(WATCH_S, Scaler(context, buffer.entries).record, stop))
        group.create_task(_every(SLOW_LOOP_S, buffer.retention.clean, stop))


def buffer_journal(buffer: Buffer) -> Callable[[], Awaitable[int]]:
    """Journal what has ended; when that moved an evaluation round, look whether it is complete."""

    async def journal() -> int:
        num_new = await buffer.journal.flush()
        if buffer.journal.rounds_moved:
            buffer.journal.rounds_moved = False
            await buffer.evaluator.close_rounds()
        return num_new

    return journal


async def _recover_when_lost(buffer: Buffer, lost: asyncio.Event, stop: asyncio.Event) -> None:
    while not stop.is_set():
        if lost.is_set():
            lost.clear()
            log.warning("Redis restarted: reconciling it with the ledger")
            await _recover_until_done(buffer, stop)
        waits = [asyncio.ensure_future(event.wait()) for event in (lost, stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


async def _on_signal(signal: Signal, act: Callable[[], Awaitable[int]], stop: asyncio.Event) -> None:
    """Act, again at once while there was something to do, else when something moved."""
    while not stop.is_set():
        mark = signal.mark()
        if not await _survive(act, stop):
            await signal.wait_past(mark, IDLE_S)
            await sleep_or_stop(stop, GATHER_S)


async def _every(seconds: float, act: Callable[[], Awaitable[int]], stop: asyncio.Event) -> None:
    while not await sleep_or_stop(stop, seconds):
        await _survive(act, stop)


async def _survive(act: Callable[[], Awaitable[int]], stop: asyncio.Event) -> int:
    """Redis or the disk may be away for a while: say so and go on. Everything else ends the process."""
    try:
        return await act()
    except TRANSIENT as error:
        log.warning("loop has to wait", extra={"reason": str(error)})
        await sleep_or_stop(stop, IDLE_S)
        return 0


async def _flush_last(buffer: Buffer) -> None:
    try:
        await buffer.journal.flush()
    except UnavailableError as error:
        log.info("left for the next start", extra={"reason": str(error)})
