"""What the person at the terminal sees: a live table, or one line a step where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import click

from forklight_cli.up.process import ManagedProcess, ProcessState
from forklight_cli.up.steps import COLUMNS, Step

if TYPE_CHECKING:
    from rich.console import RenderableType

    from forklight.v1 import buffer_pb2

ROWS = 10


class View(Protocol):
    """Where steps, states and events are shown."""

    def event(self, text: str) -> None:
        """Something happened."""

    def step(self, step: Step) -> None:
        """The trainer finished a step."""

    def state(self, status: buffer_pb2.GetStatusReply | None, processes: Sequence[ManagedProcess]) -> None:
        """Where everything stands now."""

    def close(self) -> None:
        """Give the terminal back."""


def open_view(title: str) -> View:
    """The live table on a terminal, lines otherwise."""
    return LiveView(title) if sys.stdout.isatty() else LineView()


class LineView:
    """One line an event or step, for logs and pipes."""

    def __init__(self) -> None:
        self._queues = ""
        self._phase = ""
        self._stuck = ""

    def event(self, text: str) -> None:
        """Print it."""
        click.echo(text)

    def step(self, step: Step) -> None:
        """Print it, with the queue depths last seen."""
        click.echo(f"{step.line()} {self._queues}".rstrip())

    def state(self, status: buffer_pb2.GetStatusReply | None, processes: Sequence[ManagedProcess]) -> None:
        """Remember the queue depths; print the phase and what is stuck when they change."""
        if status is None:
            return
        self._queues = " ".join(f"queue_{q.name}={q.num_waiting}+{q.num_leased}" for q in status.queues)
        phase, stuck = _phase_text(status), _stuck_text(status)
        if phase != self._phase:
            click.echo(f"phase: {phase}")
        if stuck != self._stuck and stuck:
            click.echo(stuck)
        self._phase, self._stuck = phase, stuck

    def close(self) -> None:
        """Nothing to give back."""


class LiveView:
    """A table that is drawn anew in place."""

    def __init__(self, title: str) -> None:
        from rich.live import Live

        self._title = title
        self._steps: deque[Step] = deque(maxlen=ROWS)
        self._last_step = time.monotonic()
        self._live = Live(auto_refresh=False, transient=False)
        self._live.start()

    def event(self, text: str) -> None:
        """Show it above the table, where it stays."""
        self._live.console.print(text, highlight=False, markup=False)

    def step(self, step: Step) -> None:
        """Add a row."""
        self._steps.append(step)
        self._last_step = time.monotonic()

    def state(self, status: buffer_pb2.GetStatusReply | None, processes: Sequence[ManagedProcess]) -> None:
        """Draw."""
        from rich.console import Group

        idle = f"{'last step' if self._steps else 'started'} {time.monotonic() - self._last_step:.0f} s ago"
        lines = [_phase_line(status, idle), _process_line(processes)]
        self._live.update(Group(self._table(), *lines), refresh=True)

    def close(self) -> None:
        """Leave the last table on the screen."""
        self._live.stop()

    def _table(self) -> RenderableType:
        from rich import box
        from rich.table import Table

        table = Table(title=self._title, box=box.SIMPLE_HEAD, title_justify="left")
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        for step in self._steps:
            table.add_row(*(step.text(column) for column in COLUMNS))
        return table


def _phase_line(status: buffer_pb2.GetStatusReply | None, idle: str) -> str:
    if status is None:
        return "the buffer does not answer"
    queues = "  ".join(f"{queue.name} {queue.num_waiting}+{queue.num_leased}" for queue in status.queues)
    parts = [_phase_text(status), f"version {status.version}", f"window {status.window_tokens}"]
    parts += [f"queues {queues}", f"open {status.num_open_groups}", f"ready {status.num_ready_groups}"]
    return " | ".join(filter(None, [*parts, idle, _stuck_text(status)]))


def _phase_text(status: buffer_pb2.GetStatusReply) -> str:
    from forklight.v1 import buffer_pb2

    phase = buffer_pb2.RunPhase.Name(status.phase).removeprefix("RUN_PHASE_").lower()
    return phase + (f" ({status.reason})" if status.reason else "")


def _stuck_text(status: buffer_pb2.GetStatusReply) -> str:
    """How many samples are open for too long, and where the first one is."""
    if not status.stuck:
        return ""
    first = status.stuck[0]
    since = time.strftime("%H:%M:%S", time.localtime(first.since))
    return f"stuck: {len(status.stuck)} samples, first {first.sample_id} in {first.where} since {since}"


def _process_line(processes: Sequence[ManagedProcess]) -> str:
    running = sum(child.state is ProcessState.RUNNING for child in processes)
    troubled = [child for child in processes if child.state in (ProcessState.WAITING, ProcessState.GIVEN_UP)]
    return ", ".join(
        [f"{running} processes running", *(f"{child.plan.name} {child.state}" for child in troubled)]
    )
