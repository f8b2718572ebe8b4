"""Machine-readable output: one JSON document, a line, or a file of lines."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_core.errors import BusyError, InvalidInputError

if TYPE_CHECKING:
    from google.protobuf.message import Message


def print_json(value: object) -> None:
    """An indented document."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_json_line(value: object) -> None:
    """One object a line."""
    click.echo(json.dumps(value, default=str))


def message_fields(message: Message) -> object:
    """A proto message as JSON values, with the names of the proto."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> int:
    """Write JSON lines whole or not at all, beside the old file first; returns how many.

    A pipe or a device is written as it is.
    """
    is_file = path.is_file() or not path.exists()
    partial = path.with_name(f".{path.name}.partial") if is_file else path
    num_written = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, sort_keys=True) + "\n")
                num_written += 1
        if is_file:
            partial.replace(path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        if is_file:
            partial.unlink(missing_ok=True)
    return num_written


def _write_error(path: Path, error: OSError) -> BusyError | InvalidInputError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BusyError(f"{path} was not written: {reason}; make room there, or name another place")
    return InvalidInputError(
        f"{path} cannot be written: {reason}; name a file in a folder that you may write to"
    )
