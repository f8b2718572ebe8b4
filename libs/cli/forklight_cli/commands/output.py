"""Machine-readable output: one JSON document, a line, or a file of lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    """Write JSON lines whole or not at all; returns how many."""
    from forklight_core.whole_files import WholeFile

    with WholeFile(path) as file:
        for record in records:
            file.write(json.dumps(record, sort_keys=True).encode() + b"\n")
    return file.num_lines
