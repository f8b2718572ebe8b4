"""A person asks at the door to go back: what is accepted, what is refused and why, what the run does then."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from forklight.v1 import buffer_pb2, trainer_pb2, trainer_pb2_grpc, types_pb2
from forklight_core import blobs as core_blobs
from forklight_core.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from forklight_core.rpc import open_sync_channel
from forklight_core.runfile import load_run_file
from forklight_trainer.adapters.memory import MemoryBuffer
from forklight_trainer.app import assemble
from forklight_trainer.loop import TrainingLoop
from forklight_trainer.servicer import TrainerServicer, open_door
from forklight_trainer.settings import TrainerSettings
from forklight_trainer.status import StatusBoard

Maker = Any
DEADLINE_S = 30.0


@dataclass(kw_only=True)
class AskedRun:
    """A loop in its thread behind a real door; it gets batches up to the step `most`."""

    folder: Path
    buffer: MemoryBuffer
    loop: TrainingLoop
    servicer: TrainerServicer
    board: StatusBoard
    stop: threading.Event
    most: int = 0
    thread: threading.Thread = field(init=False)
    stub: Any = None
    holds: threading.Event = field(default_factory=threading.Event)
    """Cleared: the loop stands still where it asks for a batch."""
    stands: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.holds.set()

    def start(self) -> None:
        self.servicer.attach(self.loop.roll_backs, self.loop.saves)
        self.thread.start()

    def learn(self, most: int) -> None:
        """Up to that step, durable."""
        self.most = most
        self.until(lambda: self.status().checkpoint_steps[-1:] == [most])

    def hold(self) -> None:
        """The loop stands still, now, and whatever is asked meanwhile it sees together."""
        self.stands.clear()
        self.holds.clear()
        assert self.stands.wait(DEADLINE_S)

    def status(self) -> trainer_pb2.GetTrainerStatusReply:
        return self.stub.GetTrainerStatus(trainer_pb2.GetTrainerStatusRequest(), timeout=5)

    def ask(self, step: int, reason: str = "garble", **options: bool) -> trainer_pb2.RollBackReply:
        return self.stub.RollBack(
            trainer_pb2.RollBackRequest(step=step, reason=reason, **options), timeout=10
        )

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline and self.thread.is_alive()
            time.sleep(0.01)

    def end(self) -> None:
        self.holds.set()
        self.stop.set()
        if self.thread.ident is not None:
            self.thread.join(DEADLINE_S)
            assert not self.thread.is_alive()


@pytest.fixture
def make_run(
    tmp_path: Path, maker: Maker, write_run_file: Callable[..., Path]
) -> Iterator[Callable[..., AskedRun]]:
    made: list[AskedRun] = []
    doors: list[Any] = []

    def make(**options: Any) -> AskedRun:
        core_blobs._MEMORY[str(tmp_path)] = maker.blobs
        settings = TrainerSettings(
            run_file=write_run_file(tmp_path, checkpoints={"keep_last": 9}, **options),
            run_folder=tmp_path,
            run_id="test-run",
            blobs_url=f"memory://{tmp_path}",
            buffer_address="unused",
            device="cpu",
            lease_wait_s=0.05,
        )

        def make_batch(step: int) -> types_pb2.Batch | None:
            if not run.holds.is_set():
                run.stands.set()
                run.holds.wait(DEADLINE_S)
            return cast("types_pb2.Batch", maker.batch(step)) if step <= run.most else None

        buffer, board, stop = MemoryBuffer(make_batch), StatusBoard(), threading.Event()
        parts = assemble(
            settings, load_run_file(settings.run_file), board=board, buffer=buffer.connect(), stop=stop
        )
        servicer = TrainerServicer(board, tmp_path / "steps.jsonl")
        run = AskedRun(
            folder=tmp_path,
            buffer=buffer,
            loop=TrainingLoop(parts),
            servicer=servicer,
            board=board,
            stop=stop,
        )
        door = open_door("127.0.0.1:0", servicer)
        channel: grpc.Channel = open_sync_channel(door.__enter__())
        run.stub = trainer_pb2_grpc.TrainerStub(channel)
        made.append(run)
        doors.append((channel, door))
        return run

    yield make
    for run in made:
        run.end()
    for channel, door in doors:
        channel.close()
        door.__exit__(None, None, None)


def test_a_run_goes_back_when_a_person_asks_and_says_so_in_an_event(
    make_run: Callable[..., AskedRun],
) -> None:
    run = make_run()
    run.start()
    run.learn(5)
    dry = run.ask(3, dry_run=True)
    assert (dry.to_step, dry.to_version, dry.from_step, dry.from_version) == (3, 1, 5, 2) and dry.dry_run
    assert run.status().roll_back == "" and len(run.buffer.restores) == 1
    accepted = run.ask(dry.to_step, " answers turn to garble ", exact=True)
    assert (accepted.to_step, accepted.dry_run) == (3, False)
    run.most = 6
    run.thread.join(DEADLINE_S)
    assert not run.thread.is_alive()
    assert [point.step for point in run.buffer.restores] == [0, 3]
    (event,) = run.buffer.events
    assert event.title == "went back from step 5 to step 3, as a person asked: answers turn to garble"
    assert (event.kind, event.step, event.version) == ("rolled_back", 3, 1)
    assert json.loads(event.evidence_json) == {"from_step": 5, "to_step": 3, "asked_by": "person"}
    lines = (run.folder / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert set(run.buffer.ledger.values()) == {1, 2, 3, 4, 5, 6}


def test_a_paused_run_goes_back_and_stays_paused(make_run: Callable[..., AskedRun]) -> None:
    run = make_run()
    run.start()
    run.learn(4)
    run.buffer.phase = buffer_pb2.RUN_PHASE_PAUSED
    run.ask(2)
    run.until(lambda: len(run.buffer.restores) == 2)
    run.until(lambda: run.status().step == 2 and not run.status().roll_back)
    run.most = 6
    run.until(lambda: run.status().stage == "paused")
    assert (run.status().step, list(run.status().checkpoint_steps)) == (2, [1, 2])


def test_what_cannot_be_gone_back_to_is_refused_with_what_there_is(
    make_run: Callable[..., AskedRun],
) -> None:
    run = make_run(checkpoint_every_steps=2)
    run.start()
    run.learn(4)
    with pytest.raises(NotFoundError, match="no checkpoint as old as step 1: there are those of the steps 2"):
        run.ask(1)
    with pytest.raises(NotFoundError, match="no checkpoint of step 3: there are those of the steps 2, 4"):
        run.ask(3, exact=True)
    for step in (4, 99):
        with pytest.raises(InvalidInputError, match=r"stands at step 4, .* nothing would be given up"):
            run.ask(step)
    with pytest.raises(InvalidInputError, match="a reason is needed"):
        run.ask(3, reason=" ")
    assert run.ask(3, dry_run=True).to_step == 2
    assert len(run.buffer.restores) == 1


def test_a_second_request_is_refused_until_the_first_is_done(make_run: Callable[..., AskedRun]) -> None:
    run = make_run()
    run.start()
    run.learn(5)
    run.hold()
    run.ask(3, "first")
    assert run.status().roll_back == "to step 3 (the wish of a person: first)"
    for options in ({}, {"dry_run": True}):
        with pytest.raises(BusyError, match=r"going back already, to step 3 \(the wish of a person: first\)"):
            run.ask(2, "second", **options)
    run.holds.set()
    run.until(lambda: not run.status().roll_back)
    assert run.ask(2, "third").to_step == 2
    run.until(lambda: len(run.buffer.restores) == 3)
    assert [event.title.rpartition(" ")[2] for event in run.buffer.events] == ["first", "third"]


def test_an_alarm_and_a_person_together_go_back_as_far_as_either_asks(
    make_run: Callable[..., AskedRun],
) -> None:
    run = make_run()
    run.start()
    run.learn(5)
    run.hold()
    run.ask(4, "a hunch")
    run.loop.request_roll_back(2, "collapse.entropy since step 3")
    run.holds.set()
    run.until(lambda: len(run.buffer.restores) == 2)
    assert run.buffer.restores[-1].step == 2
    assert run.buffer.events[0].title.endswith("to step 2: a hunch; collapse.entropy since step 3")


def test_a_trainer_that_cannot_go_back_says_why(make_run: Callable[..., AskedRun]) -> None:
    run = make_run()
    with pytest.raises(UnavailableError, match="is starting"):
        run.ask(1)
    run.start()
    run.until(lambda: len(run.buffer.restores) == 1)
    run.until(lambda: run.status().stage == "lease")
    with pytest.raises(PreconditionError, match="stands at step 0 and has no checkpoint yet"):
        run.ask(1)
    run.most = 6
    run.thread.join(DEADLINE_S)
    with pytest.raises(PreconditionError, match="the run is over at step 6"):
        run.ask(2)


def test_the_last_step_is_given_up_too_when_somebody_asked_while_it_was_learned(
    make_run: Callable[..., AskedRun],
) -> None:
    run = make_run()
    run.start()
    run.learn(5)
    run.hold()
    run.ask(4, "not like this")
    run.most = 6
    run.holds.set()
    run.thread.join(DEADLINE_S)
    assert [point.step for point in run.buffer.restores] == [0, 4]
    assert run.board.status.step == 6


def test_persons_do_not_use_up_what_alarms_may_do(
    make_run: Callable[..., AskedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    from forklight_trainer.steering.steering import Steering

    counted: list[list[int]] = []
    restore = Steering.restore

    def noting(self: Steering, state: Any, *, went_back_from: Any = ()) -> None:
        counted.append(list(went_back_from))
        restore(self, state, went_back_from=went_back_from)

    monkeypatch.setattr(Steering, "restore", noting)
    run = make_run()
    run.start()
    run.learn(5)
    run.ask(4)
    run.until(lambda: len(run.buffer.restores) == 2)
    run.until(lambda: run.status().checkpoint_steps[-1:] == [5] and not run.status().roll_back)
    run.loop.request_roll_back(3, "alarm")
    run.until(lambda: len(run.buffer.restores) == 3)
    assert counted == [[], [], [5]]


def test_a_checkpoint_is_written_between_two_steps_when_a_person_asks(
    make_run: Callable[..., AskedRun],
) -> None:
    run = make_run(checkpoint_every_steps=9)
    save = run.stub.SaveCheckpoint
    with pytest.raises(UnavailableError, match="the trainer is starting"):
        save(trainer_pb2.SaveCheckpointRequest(reason="early"), timeout=5)
    run.most = 3
    run.start()
    run.until(lambda: run.status().step == 3)
    assert 3 not in run.status().checkpoint_steps
    with pytest.raises(InvalidInputError, match="a reason is needed"):
        save(trainer_pb2.SaveCheckpointRequest(reason=" "), timeout=5)
    reply = save(trainer_pb2.SaveCheckpointRequest(reason="before the night"), timeout=5)
    assert reply.step == 3 > reply.durable_step
    run.until(lambda: 3 in run.status().checkpoint_steps)
    assert set(run.buffer.ledger.values()) == {1, 2, 3}
