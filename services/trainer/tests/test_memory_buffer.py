"""The buffer in memory steers as the real one does: the last word about the window, each event once."""

from __future__ import annotations

from forklight.v1 import types_pb2
from forklight_trainer.adapters.memory import MemoryBuffer
from forklight_trainer.ports import RestorePoint


def event(step: int) -> types_pb2.RunEvent:
    return types_pb2.RunEvent(id=f"window/{step}", kind="window_advanced", step=step)


def test_window_and_events_are_those_of_the_restored_checkpoint_when_a_trainer_goes_back() -> None:
    buffer = MemoryBuffer(lambda step: None)
    trainer = buffer.connect()
    trainer.restore_trainer(RestorePoint(lineage="", step=0, version=0, commits=()))
    for step, window in ((3, 64), (7, 96)):
        for _ in range(2):  # the reply to the first call was lost
            trainer.commit_steps([], window_tokens=window, events=[event(step)])
    assert (buffer.window_tokens, [each.step for each in buffer.events]) == (96, [3, 7])
    again = buffer.connect()
    again.restore_trainer(RestorePoint(lineage="l0", step=5, version=0, commits=(), window_tokens=64))
    assert buffer.window_tokens == 64
    assert [(each.step, each.undone) for each in buffer.events] == [(3, False), (7, True)]
    again.commit_steps([], window_tokens=96, events=[event(7)])
    assert [(each.step, each.undone) for each in buffer.events] == [(3, False), (7, True), (7, False)]
