"""What followers are told to do: a closed set of a runner's methods, their arguments plain 64-bit numbers.

A frame is commands one after another: its number, then the arguments in order; a list comes with its length.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate, pairwise

from forklight_core.errors import DataLossError, WeightsError
from forklight_rollout.adapters.native.columns import RowLines
from forklight_rollout.adapters.native.runner import Runner


class Command(IntEnum):
    """Never renumbered in use: both ends are one build."""

    FEED = 1
    START = 2
    DECODE = 3
    SCORE = 4
    COPY_LOGITS = 5
    FORGET_LOGITS = 6
    WRITE_TABLE = 7
    CLEAR_TABLE = 8
    COPY_PAGES = 9
    COPY_SLOT = 10
    RESET = 11
    SET_LENGTH = 12
    MOVE_ROW = 13
    CLEAR_ROW = 14
    SWAP = 15
    CHECK = 16
    END = 17


class CommandBuffer:
    """Commands on their way into the next frame."""

    def __init__(self) -> None:
        self._numbers = array("q")

    def add(self, command: Command, *arguments: int | Sequence[int]) -> None:
        self._numbers.append(command)
        for argument in arguments:
            if isinstance(argument, int):
                self._numbers.append(argument)
            else:
                self._numbers.append(len(argument))
                self._numbers.extend(argument if _is_long(argument) else list(argument))

    def take(self) -> bytes:
        """A frame; the buffer is empty afterwards."""
        taken, self._numbers = self._numbers, array("q")
        return taken.tobytes()


class CommandReader:
    """Takes a frame apart in the order in which it was put together."""

    def __init__(self, frame: bytes) -> None:
        self._numbers, self._place = array("q"), 0
        self._numbers.frombytes(frame)

    def has_more(self) -> bool:
        return self._place < len(self._numbers)

    def command(self) -> Command:
        return Command(self.number())

    def number(self) -> int:
        return self._take(1)[0]

    def numbers(self) -> array[int]:
        return self._take(self.number())

    def reals(self) -> array[float]:
        return array("d", self.numbers().tobytes())

    def _take(self, length: int) -> array[int]:
        end = self._place + length
        if not self._place <= end <= len(self._numbers):
            raise DataLossError(
                f"a frame of {len(self._numbers)} numbers ends within a command, at {self._place}"
            )
        taken, self._place = self._numbers[self._place : end], end
        return taken


def flatten_pieces(pieces: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Lengths, and all numbers."""
    return [len(piece) for piece in pieces], [number for piece in pieces for number in piece]


def flatten_lines(lines: RowLines) -> tuple[Sequence[int], ...]:
    """Reals go by their bits."""
    return lines.longs, lines.ints, array("q", array("d", lines.floats).tobytes()), lines.stops


def carry_out(command: Command, reader: CommandReader, runner: Runner) -> None:
    """Do what a command says, with its arguments from the frame."""
    number, numbers = reader.number, reader.numbers
    match command:
        case Command.FEED:
            slots, lengths, ids = numbers(), numbers(), numbers()
            pieces = [ids[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
            runner.feed(slots, pieces, numbers())
        case Command.START:
            slot, first, is_filtered = number(), number(), bool(number())
            lines = RowLines(longs=numbers(), ints=numbers(), floats=reader.reals(), stops=numbers())
            runner.start(slot, first, lines, is_filtered=is_filtered)
        case Command.DECODE:
            runner.decode(number(), is_filtered=bool(number()))
        case Command.SCORE:
            runner.score(numbers())
        case Command.COPY_LOGITS:
            runner.copy_logits(number(), number())
        case Command.FORGET_LOGITS:
            runner.forget_logits(number())
        case Command.WRITE_TABLE:
            runner.write_table(numbers(), numbers(), numbers())
        case Command.CLEAR_TABLE:
            runner.clear_table(numbers())
        case Command.COPY_PAGES:
            runner.copy_pages(numbers(), numbers())
        case Command.COPY_SLOT:
            runner.copy_slot(number(), numbers())
        case Command.RESET:
            runner.reset(numbers())
        case Command.SET_LENGTH:
            runner.set_length(number(), number())
        case Command.MOVE_ROW:
            runner.move_row(number(), number())
        case Command.CLEAR_ROW:
            runner.clear_row(number())
        case Command.SWAP:
            _swap(number(), runner)
        case _:
            raise DataLossError(f"{command.name} is none of a runner's methods")


def _swap(version: int, runner: Runner) -> None:
    taken = runner.swap()
    if taken != version:
        raise WeightsError(f"version {taken} was staged here, and {version} is put in use")


def _is_long(numbers: Sequence[int]) -> bool:
    return isinstance(numbers, array) and numbers.typecode == "q"
