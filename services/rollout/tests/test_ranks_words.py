"""What the processes of one engine say to each other arrives as it was meant."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forklight_core.errors import DataLossError, UnavailableError, WeightsError
from forklight_model.parity import NumericMode
from forklight_rollout.adapters.native.columns import RowLines
from forklight_rollout.adapters.native.ranks.agreement import agree_on_mode, require_same_digest
from forklight_rollout.adapters.native.ranks.channel import Channel, FrameKind
from forklight_rollout.adapters.native.ranks.commands import (
    Command,
    CommandBuffer,
    CommandReader,
    carry_out,
    flatten_lines,
    flatten_pieces,
)
from forklight_rollout.adapters.native.ranks.messages import (
    Answer,
    Build,
    Forget,
    Join,
    Keep,
    Load,
    Task,
    decode_answer,
    decode_task,
    encode_answer,
    encode_task,
)
from forklight_rollout.adapters.native.sequences import Row
from forklight_rollout.memory_plan import MemoryPlan
from forklight_rollout.ports import DrawRules, EndRules
from forklight_rollout.weights.manifest import PublishedWeights

LINES = RowLines.of(
    [
        Row(
            key=1,
            seed=2**64 - 3,
            prompt_ids=(5, 6),
            draw=DrawRules(temperature=0.7, top_p=0.1, top_k=3),
            end=EndRules(max_new_tokens=9, stop_ids=frozenset({4}), repetition_tokens=2),
            ids=array("i", [8]),
            num_certain=1,
            is_turn=False,
        )
    ]
)
CALLS: dict[Command, tuple[object, ...]] = {
    Command.FEED: ([3, 1], [[7, 8, 9], [5]], [0, 64]),
    Command.START: (3, 2, LINES, True),
    Command.DECODE: (12, False),
    Command.SCORE: ([1, 2, 3],),
    Command.COPY_LOGITS: (1, 2),
    Command.FORGET_LOGITS: (9,),
    Command.WRITE_TABLE: ([1, 1], [0, 1], [44, 45]),
    Command.CLEAR_TABLE: ([6],),
    Command.COPY_PAGES: ([1, 2], [3, 4]),
    Command.COPY_SLOT: (1, [2, 3]),
    Command.RESET: ([4],),
    Command.SET_LENGTH: (2, 2**40),
    Command.MOVE_ROW: (7, 3),
    Command.CLEAR_ROW: (7,),
    Command.SWAP: (5,),
}
MODE = NumericMode(is_parity=True, reason="equal", contract="c", device="H200", torch="2", triton="3")


class Recorder:
    """A runner that only remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            self.calls.append((name, (*map(_plain, arguments), *named.values())))
            return 5

        return call


def _plain(argument: object) -> object:
    if isinstance(argument, array):
        return argument.tolist()
    return [_plain(each) for each in argument] if isinstance(argument, list) else argument


def test_every_command_arrives_as_the_call_that_was_made() -> None:
    assert CALLS.keys() == set(Command) - {Command.CHECK, Command.END}
    buffer, recorder = CommandBuffer(), Recorder()
    for command, (*arguments,) in CALLS.items():
        if command is Command.FEED:
            arguments = [arguments[0], *flatten_pieces(arguments[1]), arguments[2]]
        elif command is Command.START:
            arguments = [*arguments[:2], int(arguments[3]), *flatten_lines(LINES)]
        buffer.add(command, *arguments)
    reader = CommandReader(buffer.take())
    while reader.has_more():
        carry_out(reader.command(), reader, recorder)  # type: ignore[arg-type]
    expected = {command.name.lower(): arguments for command, arguments in CALLS.items()}
    expected["swap"] = ()
    assert dict(recorder.calls) == expected
    assert buffer.take() == b""


@pytest.mark.parametrize("numbers", [[Command.FEED, 4, 1, 2], [Command.DECODE], [99], [Command.FEED, -1]])
def test_a_frame_that_holds_no_command_is_refused(numbers: list[int]) -> None:
    reader = CommandReader(array("q", numbers).tobytes())
    with pytest.raises((DataLossError, ValueError)):
        carry_out(reader.command(), reader, Recorder())  # type: ignore[arg-type]


def test_tasks_and_answers_arrive_whole(published: dict[int, PublishedWeights]) -> None:
    plan = MemoryPlan(
        num_sequences=4,
        num_prompt_slots=2,
        max_tokens=100,
        num_pages=9,
        num_reserved_pages=2,
        page_tokens=256,
        cache_bytes=10,
        budget_bytes=20,
    )
    join = Join(rank=1, size=2, device="cpu", threads=1, timeout_s=1.5, folder="/somewhere")
    load = Load(weights=published[1], dtype="bfloat16")
    tasks: list[Task] = [join, load, Build(plan=plan, uses_graphs=True, runs_ahead=False), Keep(), Forget()]
    for task in tasks:
        assert decode_task(encode_task(task)) == task
    for answer in (Answer(), Answer(error="x", digest=2**62, free_bytes=2**40, mode=MODE)):
        assert decode_answer(encode_answer(answer)) == answer


def test_a_channel_says_that_the_other_end_is_gone() -> None:
    ours, theirs = (Channel(end, timeout_s=5.0) for end in socket.socketpair())
    theirs.send(FrameKind.ANSWER, b"x" * 100_000)
    assert ours.is_readable() and ours.receive(FrameKind.ANSWER) == b"x" * 100_000
    assert not ours.is_readable()
    theirs.send(FrameKind.CHECKED, b"")
    with pytest.raises(DataLossError, match="instead of a ANSWER"):
        ours.receive(FrameKind.ANSWER)
    theirs.close()
    ours.wait_closed()
    with pytest.raises(UnavailableError):
        ours.receive(FrameKind.ANSWER)
    with pytest.raises(UnavailableError):
        ours.send(FrameKind.ANSWER, b"")
    ours.close()


@pytest.mark.parametrize(
    ("others", "is_parity", "reason"),
    [
        ([MODE, MODE], True, "equal, in each of 3 processes"),
        ([MODE, replace(MODE, is_parity=False, reason="2 bits")], False, "process 2 of 3: 2 bits"),
        ([replace(MODE, device="H100"), MODE], False, "device is H100 in process 1 and H200 in process 0"),
    ],
)
def test_parity_is_of_all_processes_or_of_none(
    others: list[NumericMode], is_parity: bool, reason: str
) -> None:
    agreed = agree_on_mode([MODE, *others])
    assert (agreed.is_parity, agreed.reason) == (is_parity, reason)


def test_parts_of_different_weights_are_refused(published: dict[int, PublishedWeights]) -> None:
    weights = published[1]
    require_same_digest(weights, 7, [Answer(digest=7)])
    with pytest.raises(WeightsError, match=r"process 2: no file"):
        require_same_digest(weights, 7, [Answer(digest=7), Answer(error="no file")])
    with pytest.raises(WeightsError, match="changed while it was read"):
        require_same_digest(weights, 7, [Answer(digest=8)])
    assert Path(weights.folder).is_dir()
