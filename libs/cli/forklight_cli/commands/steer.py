"""`forklight steer`: a recorded run through the length window and the alarms of a run file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.config import SET_HELP
from forklight_cli.commands.output import print_json_line

if TYPE_CHECKING:
    from forklight_trainer.steering.replay import ReplayedStep

EPILOG = """\b
Examples:
  forklight steer runs/demo-1/steps.jsonl --run run.toml
  forklight steer steps.jsonl --run run.toml --set length.converged=0.05 --set collapse.tail.limit=1.5
"""


@click.command(epilog=EPILOG)
@click.argument("steps", type=click.Path(path_type=Path))
@click.option("--run", "run_path", required=True, type=click.Path(path_type=Path), help="Run file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
@click.option("--all", "shows_all", is_flag=True, help="Every step, not only those that change something.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a step.")
def steer(steps: Path, run_path: Path, overrides: tuple[str, ...], shows_all: bool, as_json: bool) -> None:
    """Say what [length] and [collapse] of a run file would have decided on the run that STEPS records.

    Shows each change of mind about the window with the numbers that decided, and every alert. The recording
    does not react to what is decided here. Without --all, steps that change nothing are left out.
    """
    from forklight_core.runfile import load_run_file
    from forklight_trainer.steering.replay import replay

    replayed: Iterable[ReplayedStep] = replay(steps, load_run_file(run_path, overrides))
    count, num_events, window = 0, 0, 0
    for step, is_news in mark_news(replayed):
        count, window = count + 1, step.observation.decision.window
        num_events += len(step.observation.events)
        if shows_all or is_news:
            print_step(step, as_json=as_json)
    if not as_json:
        click.echo(f"{count} steps, {num_events} events, window {window} at the end")


def mark_news(replayed: Iterable[ReplayedStep]) -> Iterator[tuple[ReplayedStep, bool]]:
    """Each step, and whether something happens in it or the reason for the window changes."""
    before = None
    for step in replayed:
        decision = step.observation.decision
        yield step, bool(step.observation.events) or decision.reason != before
        before = decision.reason


def print_step(step: ReplayedStep, *, as_json: bool) -> None:
    """The decision, and each event on a line of its own."""
    from forklight_trainer.steering.words import explain

    if as_json:
        print_json_line(step_fields(step))
        return
    click.echo(f"step {step.figures.step:>6}  {explain(step.observation.decision)}")
    for event in step.observation.events:
        if event.source != "length":
            click.echo(f"             {event.severity.value}: {event.source}: {event.title}")


def step_fields(step: ReplayedStep) -> dict[str, object]:
    """One JSON object: decision, evidence, events, action."""
    from forklight_trainer.steering.events import finite
    from forklight_trainer.steering.words import explain

    seen = step.observation
    return {
        "step": step.figures.step,
        "window": seen.decision.window,
        "move": seen.decision.move.value,
        "reason": seen.decision.reason.value,
        "sentence": explain(seen.decision),
        "evidence": finite(seen.decision.evidence),
        "action": {"kind": seen.action.kind.value, "step": seen.action.step, "reason": seen.action.reason},
        "events": [
            {
                "kind": event.kind.value,
                "severity": event.severity.value,
                "source": event.source,
                "title": event.title,
                "evidence": finite(event.evidence),
            }
            for event in seen.events
        ],
    }
