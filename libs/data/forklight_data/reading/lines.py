"""JSON lines: plain, gzip or zstd; a line has a longest length, so that no file can fill the memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from forklight_core.errors import DataLossError, InvalidInputError
from forklight_core.whole_files import named_errors
from forklight_data.reading.row import Row
from forklight_data.record import read_json

MOST_LINE_BYTES = 32 * 2**20
MOST_RAW_BYTES = 10_000
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_lines(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked when its first bytes say that it is packed."""
    with named_errors(path):
        with path.open("rb") as file:
            magic = file.read(4)
        if magic.startswith(GZIP_MAGIC):
            return cast("BinaryIO", gzip.open(path, "rb"))
        if magic == ZSTD_MAGIC:
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 2**20)
        return path.open("rb", buffering=2**20)


def raw_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of every line; None for one that is too long. Empty lines are left out."""
    number = 0
    try:
        with open_lines(path) as file:
            while line := file.readline(MOST_LINE_BYTES + 1):
                number += 1
                if len(line) > MOST_LINE_BYTES and not line.endswith(b"\n"):
                    while (rest := file.readline(MOST_LINE_BYTES)) and not rest.endswith(b"\n"):
                        pass
                    yield number, None
                    continue
                if number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if line.strip():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataLossError(
            f"{path}: the packed file ends or breaks after line {number} ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise DataLossError(f"{path}: cannot be read after line {number}: {error}; fetch it again") from error


def read_lines(path: Path, leave_out: frozenset[str]) -> Iterator[Row]:
    """Every line as a row."""
    for number, line in raw_lines(path):
        where = f"{path.name}:{number}"
        if line is None:
            yield Row(where=where, problem=f"the line is longer than {MOST_LINE_BYTES} bytes")
            continue
        try:
            found = read_json(line)
        except InvalidInputError as error:
            yield Row(where=where, problem=str(error), raw=beginning(line))
            continue
        if not isinstance(found, dict):
            yield Row(where=where, problem=f"is a {type(found).__name__}, not an object", raw=beginning(line))
            continue
        yield Row(where=where, fields={key: value for key, value in found.items() if key not in leave_out})


def beginning(line: bytes) -> str:
    """What a person needs to find the line."""
    return line[:MOST_RAW_BYTES].decode("utf-8", "backslashreplace").rstrip("\n")
