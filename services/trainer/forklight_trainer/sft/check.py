"""One pass over a file of demonstrations: every line is read as training will read it, before it begins.

Leaves a record a usable line (where it is, how long it is) and figures. All wrong lines are told together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_trainer.sft.examples import Example, ExampleReader, explain

LINE = np.dtype(
    [("line", "<i8"), ("offset", "<i8"), ("num_bytes", "<i8"), ("num_tokens", "<i4"), ("num_counted", "<i4")]
)
LONGEST_LINE_BYTES = 64 * 2**20
MOST_PROBLEMS = 10
MOST_IGNORED_KEYS = 20
RECORDS_AT_ONCE = 4096
TELL_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFigures:
    """What a check found."""

    num_examples: int
    """Usable ones."""
    num_tokens: int
    num_counted: int
    """Tokens that are learned."""
    longest: int
    """Tokens of the longest, before anything was cut or dropped."""
    num_cut: int
    num_dropped: int
    """Longer than allowed, or with nothing left to learn once their end was cut off."""
    ignored_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckProgress:
    """How far a check is."""

    file: str
    num_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLine:
    """A line that holds something."""

    number: int  # from 1
    offset: int
    content: bytes


def check_file(
    path: Path, reader: ExampleReader, target: Path, tell: Callable[[CheckProgress], None]
) -> CorpusFigures:
    """Write the records of a file's usable lines; ConfigError names the lines that are wrong."""
    check = _Check(path=path, reader=reader)
    total_bytes, told_s = path.stat().st_size, time.monotonic()
    with path.open("rb") as source, target.open("wb") as out:
        for line in read_lines(source, path):
            check.add(line)
            if len(check.records) == RECORDS_AT_ONCE:
                check.write(out)
            if len(check.problems) == MOST_PROBLEMS:
                break
            if time.monotonic() - told_s > TELL_EVERY_S:
                told_s = time.monotonic()
                tell(CheckProgress(file=str(path), num_bytes=line.offset, total_bytes=total_bytes))
        check.write(out)
    return check.finish()


def read_lines(source: BinaryIO, path: Path) -> Iterator[RawLine]:
    """The lines of a file that are not blank, one in memory at a time."""
    number = offset = 0
    while content := source.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if len(content) > LONGEST_LINE_BYTES:
            raise ConfigError(
                f"{path}:{number} is longer than {LONGEST_LINE_BYTES} bytes: give one demonstration a line"
            )
        if not content.isspace():
            yield RawLine(number=number, offset=offset, content=content)
        offset += len(content)


@dataclass(slots=True, kw_only=True)
class _Check:
    path: Path
    reader: ExampleReader
    records: list[tuple[int, ...]] = field(default_factory=list)
    """Not written yet."""
    problems: list[str] = field(default_factory=list)
    ignored_keys: set[str] = field(default_factory=set)
    num_examples: int = 0
    num_tokens: int = 0
    num_counted: int = 0
    longest: int = 0
    num_cut: int = 0
    num_dropped: int = 0

    def add(self, line: RawLine) -> None:
        try:
            example = self.reader.read(line.content)
        except InvalidInputError as error:
            self.problems.append(f"{self.path}:{line.number} {explain(error)}")
            return
        self.longest = max(self.longest, example.num_tokens_whole)
        if len(self.ignored_keys) < MOST_IGNORED_KEYS:
            self.ignored_keys.update(example.ignored_keys)
        if self._fits(example, line):
            self._keep(example, line)

    def write(self, out: BinaryIO) -> None:
        out.write(np.array(self.records, dtype=LINE).tobytes())
        self.records.clear()

    def finish(self) -> CorpusFigures:
        """The figures, or everything that is wrong."""
        if self.problems:
            more = "; the rest was not checked" if len(self.problems) == MOST_PROBLEMS else ""
            raise ConfigError("\n".join([f"{self.path} cannot be learned from{more}:", *self.problems]))
        if not self.num_examples:
            left_out = f" ({self.num_dropped} were dropped)" if self.num_dropped else ""
            raise ConfigError(
                f"{self.path} is empty{left_out}: give at least one line {{prompt, response}} or {{messages}}"
            )
        return CorpusFigures(
            num_examples=self.num_examples,
            num_tokens=self.num_tokens,
            num_counted=self.num_counted,
            longest=self.longest,
            num_cut=self.num_cut,
            num_dropped=self.num_dropped,
            ignored_keys=tuple(sorted(self.ignored_keys)),
        )

    def _fits(self, example: Example, line: RawLine) -> bool:
        is_too_long = example.num_tokens_whole > self.reader.max_tokens
        if is_too_long and self.reader.on_too_long == "refuse":
            self.problems.append(
                f"{self.path}:{line.number} has {example.num_tokens_whole} tokens, {self.reader.max_tokens} "
                "are allowed (sft.max_tokens, sft.pack_tokens, the model's max_position_embeddings): raise "
                "the limit, or set sft.on_too_long to drop or cut"
            )
            return False
        if is_too_long and (self.reader.on_too_long == "drop" or not example.counted_T.any()):
            self.num_dropped += 1
            return False
        self.num_cut += is_too_long
        return True

    def _keep(self, example: Example, line: RawLine) -> None:
        num_tokens, num_counted = len(example.ids_T), int(example.counted_T.sum())
        self.records.append((line.number, line.offset, len(line.content), num_tokens, num_counted))
        self.num_examples += 1
        self.num_tokens += num_tokens
        self.num_counted += num_counted
