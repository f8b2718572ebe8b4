"""Progress of long file work: bars on a terminal, single lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

ROWS_AT_A_TIME = 200


class Bars:
    """A watcher of the data path."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._waiting = 0

    def __enter__(self) -> Bars:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._progress = Progress(
                TextColumn("{task.description:14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        if self._progress is not None:
            self._progress.stop()

    def begin(self, name: str, total: int | None) -> None:
        """A bar of its own."""
        self._flush()
        if self._progress is not None:
            self._task = self._progress.add_task(name, total=total)

    def advance(self, number: int) -> None:
        """Told on in lots: a bar costs more than a row."""
        self._waiting += number
        if self._waiting >= ROWS_AT_A_TIME:
            self._flush()

    def say(self, text: str) -> None:
        """Above the bars, where it stays."""
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False)
        else:
            click.echo(text, err=True)

    def _flush(self) -> None:
        if self._progress is not None and self._task is not None and self._waiting:
            self._progress.advance(self._task, self._waiting)
        self._waiting = 0
