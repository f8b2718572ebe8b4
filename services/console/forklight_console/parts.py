"""What the pages of samples, ledger and control look through, by its name in `app.state`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc.aio

from forklight_console.control.live import LiveDoors
from forklight_console.control.ports import ControlDesk
from forklight_console.ledger.live import LiveLedger
from forklight_console.samples.live import LiveSamples
from forklight_console.samples.payloads import BlobPayloads
from forklight_console.samples.ports import SampleDesk
from forklight_console.samples.text import RunText
from forklight_console.samples.verdicts import VerdictFiles
from forklight_console.settings import ConsoleSettings


@asynccontextmanager
async def open_parts(
    channel: grpc.aio.Channel, settings: ConsoleSettings
) -> AsyncIterator[Mapping[str, object]]:
    """The adapters of a running run; closed with the console."""
    folder = settings.run_folder
    samples = SampleDesk(
        source=LiveSamples(channel, settings.run_id),
        payloads=BlobPayloads(settings.blobs_url, folder),
        verdicts=VerdictFiles(folder),
        text=RunText(folder, settings.tokenizer_folder),
        trace_url=settings.trace_url,
    )
    doors = LiveDoors(channel, settings.run_id, folder, settings.trainer_address)
    try:
        yield {
            "samples": samples,
            "ledger": LiveLedger(channel, settings.run_id),
            "control": ControlDesk(doors=doors, run_folder=folder),
        }
    finally:
        await doors.close()
