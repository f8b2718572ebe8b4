"""One judge process, put together; its door is in `servicer`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import cast

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core.errors import ForklightError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.rpc import open_channel
from forklight_core.runfile import load_run_file
from forklight_reward.judge.desk import JudgeDesk
from forklight_reward.judge.engines import open_judges
from forklight_reward.judge.frozen import FrozenAnswers
from forklight_reward.judge.keeper import CalibrationKeeper
from forklight_reward.judge.proof import Prover
from forklight_reward.judge.store import CalibrationStore
from forklight_reward.judge.upkeep import Tell, Upkeep, UpkeepOptions
from forklight_reward.judge.watch import JudgeWatch, SeenGroup
from forklight_reward.settings import JudgeSettings

TELL_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRole:
    """What answers, and what runs beside it."""

    desk: JudgeDesk
    upkeep: Upkeep
    canaries_every_s: float

    async def prove(self, stop: asyncio.Event) -> bool:
        """Ask the canaries until the judge passes; False when told to stop before."""
        engine = self.desk.judges.default
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                check = asyncio.ensure_future(self.desk.prover.prove(engine))
                await asyncio.wait({check, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not check.done():
                    check.cancel()
                    await asyncio.wait({check})
                    return False
                try:
                    num_judged = check.result()
                    logger.info("judge has passed", extra={"judge": engine.version, "num_judged": num_judged})
                    return True
                except ForklightError as error:
                    logger.error("judge does not serve", extra={"reason": str(error)})
                    await sleep_or_stop(stop, self.canaries_every_s)
            return False
        finally:
            stopping.cancel()


@asynccontextmanager
async def open_role(settings: JudgeSettings) -> AsyncIterator[JudgeRole]:
    """The judge of a run file and its run folder."""
    run_file = load_run_file(settings.run_file)
    section = run_file.reward.judge
    async with AsyncExitStack() as closing:
        api_key = settings.judge_api_key.get_secret_value()
        judges = await closing.enter_async_context(open_judges(section, api_key=api_key))
        prover = Prover(timeout_s=settings.canaries_timeout_s, pause_s=settings.canaries_every_s)
        closing.push_async_callback(prover.close)
        tell: Tell | None = None
        if settings.buffer_address:
            channel = await closing.enter_async_context(open_channel(settings.buffer_address))
            door = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
            tell = teller(door, settings.run_id)
        store = CalibrationStore(settings.run_folder)
        waiting: list[Upkeep] = []

        def on_window(groups: Sequence[SeenGroup]) -> None:
            waiting[0].add_window(groups)

        desk = JudgeDesk(
            judges=judges,
            keeper=CalibrationKeeper(store),
            prover=prover,
            watch=JudgeWatch(on_window, group_size=run_file.sampling.group_size),
            frozen=FrozenAnswers(store.frozen_path, most=section.padding_answers),
        )
        options = UpkeepOptions(recalibrate=section.recalibrate, probe_every=section.padding_every)
        upkeep = Upkeep(desk, store, options, tell=tell)
        waiting.append(upkeep)
        yield JudgeRole(desk=desk, upkeep=upkeep, canaries_every_s=settings.canaries_every_s)


def teller(door: buffer_pb2_grpc.BufferAsyncStub, run_id: str) -> Tell:
    """Tells the run's buffer, where the console and `forklight status` read it."""

    async def tell(events: Sequence[types_pb2.RunEvent]) -> None:
        request = buffer_pb2.ReportEventsRequest(run_id=run_id, events=events)
        await door.ReportEvents(request, timeout=TELL_TIMEOUT_S)

    return tell
