"""What a path means: one file, a folder written by `datasets` (save_to_disk), or a folder of data files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from forklight_core.errors import InvalidInputError
from forklight_core.whole_files import named_errors
from forklight_data.reading.lines import read_lines
from forklight_data.reading.row import Row
from forklight_data.reading.tables import read_arrow, read_parquet

Reader = Callable[[Path, frozenset[str]], Iterator[Row]]
READERS: dict[str, Reader] = {
    ".jsonl": read_lines,
    ".jsonl.gz": read_lines,
    ".jsonl.zst": read_lines,
    ".ndjson": read_lines,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
SPLIT = re.compile(r"(?:^|[^a-z])(train|training|test|testing|validation|valid|val|dev|eval)(?![a-z])")
ONE_NAME = {
    "training": "train",
    "testing": "test",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
EVERY = "all"


def read_path(path: Path, split: str | None, leave_out: frozenset[str]) -> Iterator[Row]:
    """Every row under a path; of a folder with several splits, those of the one that was named."""
    for file in files_under(path, split):
        yield from reader_of(file)(file, leave_out)


def reader_of(path: Path) -> Reader:
    """By the end of the name; InvalidInputError names what can be read."""
    for ending, reader in READERS.items():
        if path.name.lower().endswith(ending):
            return reader
    raise InvalidInputError(
        f"{path}: unknown kind of file; {', '.join(READERS)} and folders of them can be read"
    )


def files_under(path: Path, split: str | None = None) -> list[Path]:
    """The files to read, in order."""
    if not path.exists():
        raise InvalidInputError(f"{path}: there is no such file or folder")
    if path.is_file():
        reader_of(path)
        return [path]
    found = sorted(_data_files(path))
    if not found:
        raise InvalidInputError(f"{path}: the folder holds no data file; {', '.join(READERS)} can be read")
    by_split: dict[str, list[Path]] = {}
    for file in found:
        by_split.setdefault(_split_of(path, file), []).append(file)
    if split == EVERY or (split is None and len(by_split) == 1):
        return found
    names = ", ".join(sorted(by_split))
    if split is None:
        raise InvalidInputError(
            f"{path}: holds the splits {names}; say which with --split NAME, or --split {EVERY} "
            "(what is kept to test with does not belong in training)"
        )
    if split not in by_split:
        raise InvalidInputError(f"{path}: has no split {split!r}; it holds {names}")
    return by_split[split]


def _data_files(folder: Path) -> Iterator[Path]:
    """A folder of save_to_disk says itself which files count; leftovers of its caches do not."""
    state = folder / "state.json"
    if state.is_file():
        yield from _saved_files(folder, state)
        return
    with named_errors(folder):
        inside = sorted(folder.iterdir())
    for item in inside:
        if item.name.startswith((".", "cache-")):
            continue
        if item.is_dir():
            yield from _data_files(item)
        elif any(item.name.lower().endswith(ending) for ending in READERS):
            yield item


def _saved_files(folder: Path, state: Path) -> Iterator[Path]:
    try:
        with named_errors(state):
            names = [str(item["filename"]) for item in json.loads(state.read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{state}: not the state of a saved data set ({error!r})") from error
    for name in names:
        if not (folder / name).is_file() or Path(name).name != name:
            raise InvalidInputError(f"{state}: names {name!r}, which is not in the folder; fetch it again")
        yield folder / name


def _split_of(root: Path, file: Path) -> str:
    """By folder or name: train/data-0.arrow and data/train-00000-of-00001.parquet are both of train."""
    found = SPLIT.search(file.relative_to(root).as_posix().lower())
    return ONE_NAME.get(found[1], found[1]) if found else "train"
