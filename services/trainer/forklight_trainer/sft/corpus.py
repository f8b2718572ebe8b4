"""A checked file of demonstrations of any size, read by offset, one demonstration at a time.

What a check finds is kept in a folder: `lines.bin`, mapped, and `figures.json`. The folder is named after the
file's content and the reader that checked it, so it is found again only where it still holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import blake3
import numpy as np
import numpy.typing as npt

from forklight_core.errors import ConfigError, DataLossError, InvalidInputError
from forklight_trainer.durable import canonical_json, hash_file, staged_folder
from forklight_trainer.sft.check import LINE, CheckProgress, CorpusFigures, check_file
from forklight_trainer.sft.examples import Example, ExampleReader

LINES_FILE = "lines.bin"
FIGURES_FILE = "figures.json"
FORM = 1
"""Of what is kept; another one is not read."""


class Corpus:
    """The usable demonstrations of a file, by number from 0."""

    def __init__(self, path: Path, reader: ExampleReader, folder: Path) -> None:
        self.path, self.key = path, folder.name
        content = json.loads((folder / FIGURES_FILE).read_bytes())
        content["ignored_keys"] = tuple(content["ignored_keys"])
        self.figures = CorpusFigures(**content)
        self.lines: npt.NDArray[np.void] = np.memmap(folder / LINES_FILE, dtype=LINE, mode="r")
        self._reader = reader
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __len__(self) -> int:
        return len(self.lines)

    def name(self, number: int) -> str:
        """FILE:LINE of a demonstration."""
        return f"{self.path}:{self.lines['line'][number]}"

    def read(self, number: int) -> Example:
        """One demonstration; DataLossError when it is no longer what was checked."""
        record = self.lines[number]
        line = os.pread(self._file, int(record["num_bytes"]), int(record["offset"]))
        try:
            example = self._reader.read(line)
        except InvalidInputError as error:
            raise self._changed(number) from error
        expected = (int(record["num_tokens"]), int(record["num_counted"]))
        if (len(example.ids_T), int(example.counted_T.sum())) != expected:
            raise self._changed(number)
        return example

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _changed(self, number: int) -> DataLossError:
        return DataLossError(
            f"{self.name(number)} is not what it was when the file was checked: start again, and leave the "
            "file alone while it is learned from"
        )


def open_corpus(
    path: Path, reader: ExampleReader, folder: Path, tell: Callable[[CheckProgress], None]
) -> Corpus:
    """A file's demonstrations, checked now unless `folder` holds what an earlier check of the same found."""
    try:
        content = hash_file(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error}; give a file of JSON lines {{prompt, response}} or {{messages}}"
        ) from error
    key = blake3.blake3(json.dumps([FORM, content, reader.definition]).encode()).hexdigest()[:32]
    target = folder / key
    if not target.is_dir():
        with staged_folder(target) as staging:
            staging.mkdir()
            figures = check_file(path, reader, staging / LINES_FILE, tell)
            (staging / FIGURES_FILE).write_bytes(canonical_json(asdict(figures)))
    return Corpus(path, reader, target)
