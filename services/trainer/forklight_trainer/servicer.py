"""The trainer's door: answered from its own thread, so that no long step silences it. What is asked of the
loop waits there until the step under way is done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio

from forklight.v1 import trainer_pb2, trainer_pb2_grpc
from forklight_core.errors import DeadlineError, UnavailableError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.rpc import Registration, serve
from forklight_trainer.going_back import RollBackRequests
from forklight_trainer.saving import SaveRequests
from forklight_trainer.status import StatusBoard

log = logging.getLogger(__name__)

SERVICE_NAME = trainer_pb2.DESCRIPTOR.services_by_name["Trainer"].full_name
OPEN_DEADLINE_S = 10.0
STOP_POLL_S = 0.2


class TrainerServicer(trainer_pb2_grpc.TrainerServicer):
    """Answers from the status board; hands on what is asked of the loop."""

    def __init__(self, board: StatusBoard, steps_file: Path) -> None:
        self._board = board
        self._steps_file = steps_file
        self._roll_backs: RollBackRequests | None = None
        self._saves: SaveRequests | None = None

    def attach(self, roll_backs: RollBackRequests, saves: SaveRequests) -> None:
        """There is a loop now."""
        self._roll_backs, self._saves = roll_backs, saves

    async def GetTrainerStatus(
        self,
        request: trainer_pb2.GetTrainerStatusRequest,
        context: grpc.aio.ServicerContext[
            trainer_pb2.GetTrainerStatusRequest, trainer_pb2.GetTrainerStatusReply
        ],
    ) -> trainer_pb2.GetTrainerStatusReply:
        status, asked = self._board.status, self._roll_backs
        pending = None if asked is None else asked.pending
        return trainer_pb2.GetTrainerStatusReply(
            step=status.step,
            version=status.version,
            lineage=status.lineage,
            stage=status.stage.value,
            stage_since=status.stage_since,
            problem=status.problem,
            steps_file=str(self._steps_file.resolve()),
            numeric_mode=status.numeric_mode,
            num_compared_tokens=status.num_compared_tokens,
            num_unequal_tokens=status.num_unequal_tokens,
            checkpoint_steps=[] if asked is None else await asyncio.to_thread(lambda: asked.steps),
            roll_back="" if pending is None else str(pending),
        )

    async def RollBack(
        self,
        request: trainer_pb2.RollBackRequest,
        context: grpc.aio.ServicerContext[trainer_pb2.RollBackRequest, trainer_pb2.RollBackReply],
    ) -> trainer_pb2.RollBackReply:
        asked = self._roll_backs
        if asked is None:
            raise UnavailableError("the trainer is starting: ask again when it runs")
        way = await asyncio.to_thread(
            asked.ask, request.step, request.reason, is_exact=request.exact, is_dry=request.dry_run
        )
        if not request.dry_run:
            log.warning("asked to go back", extra={"to_step": way.to_step, "reason": request.reason})
        return trainer_pb2.RollBackReply(
            to_step=way.to_step,
            to_version=way.to_version,
            from_step=way.from_step,
            from_version=way.from_version,
            dry_run=request.dry_run,
        )

    async def SaveCheckpoint(
        self,
        request: trainer_pb2.SaveCheckpointRequest,
        context: grpc.aio.ServicerContext[trainer_pb2.SaveCheckpointRequest, trainer_pb2.SaveCheckpointReply],
    ) -> trainer_pb2.SaveCheckpointReply:
        if self._saves is None:
            raise UnavailableError("the trainer is starting: ask again when it runs")
        answer = self._saves.ask(request.reason)
        log.info("asked for a checkpoint", extra={"step": answer.step, "reason": request.reason})
        return trainer_pb2.SaveCheckpointReply(step=answer.step, durable_step=answer.durable_step)


@contextmanager
def open_door(
    listen: str,
    servicer: TrainerServicer,
    *,
    stop: threading.Event | None = None,
    health_listen: str = "",
) -> Iterator[str]:
    """Serve from a background thread while the block runs; yields the address. `stop`: not ready any more."""
    door = _Door(listen, servicer, stop or threading.Event(), health_listen)
    thread = threading.Thread(target=door.run, name="trainer-door", daemon=True)
    thread.start()
    try:
        yield door.wait_address()
    finally:
        door.close()
        thread.join(OPEN_DEADLINE_S)


class _Door:
    def __init__(
        self, listen: str, servicer: TrainerServicer, stop: threading.Event, health_listen: str
    ) -> None:
        self._listen, self._servicer = listen, servicer
        self._stop, self._health_listen = stop, health_listen
        self._is_ready = threading.Event()
        self._address = ""
        self._failure: Exception | None = None
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            log.exception("the door could not be opened")
            self._failure = error
        finally:
            self._is_ready.set()
            self._loop.close()

    def wait_address(self) -> str:
        if not self._is_ready.wait(OPEN_DEADLINE_S):
            raise DeadlineError(
                f"the trainer's door at {self._listen} did not open within {OPEN_DEADLINE_S:g} s"
            )
        if self._failure is not None:
            raise self._failure
        return self._address

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._closing.set)

    async def _serve(self) -> None:
        registration = Registration(
            trainer_pb2_grpc.add_TrainerServicer_to_server, self._servicer, SERVICE_NAME
        )
        async with serve(self._listen, [registration], health_listen=self._health_listen) as server:
            self._address = server.address
            self._is_ready.set()
            while not await sleep_or_stop(self._closing, STOP_POLL_S):
                if self._stop.is_set():
                    await server.leave()
