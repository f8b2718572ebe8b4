"""Parquet and arrow files, some hundred rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from forklight_core.errors import DataLossError, InvalidInputError
from forklight_core.whole_files import named_errors
from forklight_data.reading.row import Row, plain_object

if TYPE_CHECKING:
    from pyarrow import RecordBatch

ROWS_AT_A_TIME = 256


def read_parquet(path: Path, leave_out: frozenset[str]) -> Iterator[Row]:
    """Every row of a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    num_rows = 0
    with named_errors(path):
        path.open("rb").close()
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in leave_out]
            for batch in file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=columns):
                yield from _rows(path, batch, num_rows, leave_out)
                num_rows += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, num_rows, error) from error


def read_arrow(path: Path, leave_out: frozenset[str]) -> Iterator[Row]:
    """Every row of an arrow file, in the stream or the file format."""
    import pyarrow as pa

    num_rows = 0
    with named_errors(path):
        path.open("rb").close()
    try:
        with pa.memory_map(str(path)) as source:
            for batch in _batches(source):
                for start in range(0, batch.num_rows, ROWS_AT_A_TIME):
                    part = batch.slice(start, ROWS_AT_A_TIME)
                    yield from _rows(path, part, num_rows, leave_out)
                    num_rows += part.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, num_rows, error) from error


def _batches(source: object) -> Iterator[RecordBatch]:
    import pyarrow as pa

    try:
        yield from pa.ipc.open_stream(source)
        return
    except pa.ArrowInvalid:
        source.seek(0)  # type: ignore[attr-defined]
    file = pa.ipc.open_file(source)
    for number in range(file.num_record_batches):
        yield file.get_batch(number)


def _rows(path: Path, batch: RecordBatch, num_before: int, leave_out: frozenset[str]) -> Iterator[Row]:
    for offset, fields in enumerate(batch.to_pylist()):
        where = f"{path.name}:{num_before + offset + 1}"
        try:
            yield Row(where=where, fields=plain_object(fields, leave_out))
        except InvalidInputError as error:
            yield Row(where=where, problem=str(error))


def _damaged(path: Path, num_rows: int, error: Exception) -> DataLossError:
    return DataLossError(
        f"{path}: not a sound table, or cut off, after row {num_rows} ({str(error)[:160]}); fetch it again"
    )
