"""`forklight rollback`: a run that is up goes on from an older checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from forklight.v1 import trainer_pb2
    from forklight_cli.run_folder import RunFolder

EPILOG = """\b
Examples:
  forklight rollback runs/demo-1 --list
  forklight rollback runs/demo-1 40 --reason "answers turn to garble since 52"
  forklight rollback runs/demo-1 40 --dry-run
"""


@click.command(epilog=EPILOG)
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.argument("step", type=click.IntRange(min=0), required=False)
@click.option("--reason", default="asked for by hand", show_default=True, help="Shown wherever the run is.")
@click.option("--list", "lists", is_flag=True, help="Show the checkpoints that can be gone back to.")
@click.option("--dry-run", is_flag=True, help="Say what would be given up; ask nothing of the run.")
@click.option("--yes", is_flag=True, help="Do not ask whether it is meant.")
def rollback(
    run_folder: Path, step: int | None, reason: str, *, lists: bool, dry_run: bool, yes: bool
) -> None:
    """Have the run of RUN_FOLDER go back to its newest checkpoint up to STEP, and go on from there.

    The run must be up. The step under way is finished first. What was learned since the checkpoint is given
    up, its samples are learned again, and rollout loads the older version. A paused run stays paused; old
    checkpoints are removed while a run goes on, so `forklight pause` it first to choose in peace.
    """
    from forklight_cli.person import who_asks
    from forklight_cli.run_folder import open_run_folder
    from forklight_cli.trainer_client import connect_trainer
    from forklight_core.control_log import audited

    if lists is (step is not None):
        raise click.UsageError("give either a STEP to go back to, or --list for the checkpoints there are")
    folder = open_run_folder(run_folder)
    with connect_trainer(folder) as trainer:
        if step is None:
            return print_checkpoints(folder, trainer.status())
        way = trainer.roll_back(step, reason, dry_run=True)
        for line in describe_way(folder, way, reason):
            click.echo(line)
        if dry_run:
            return click.echo("nothing was asked of the run (--dry-run)")
        if not yes:
            click.confirm("Go back?", abort=True)
        target = str(way.to_step)
        with audited(folder.path, who=who_asks(), action="rollback", reason=reason, target=target) as answer:
            accepted = trainer.roll_back(way.to_step, reason, exact=True)
            answer.detail = f"accepted: from step {way.from_step} to step {way.to_step}"
    click.echo(
        f"accepted: the run goes back to step {accepted.to_step} when the step under way is done; "
        f"`forklight status {run_folder}` shows the event rolled_back then"
    )
    return None


def print_checkpoints(folder: RunFolder, status: trainer_pb2.GetTrainerStatusReply) -> None:
    """One line a checkpoint, with what its step measured."""
    click.echo(f"the trainer has done step {status.step} (version {status.version}, {status.stage})")
    if status.roll_back:
        click.echo(f"it is going back {status.roll_back}")
    records = records_of(folder, set(status.checkpoint_steps))
    for step in status.checkpoint_steps:
        click.echo(f"  step {step:>6}  {describe_record(records.get(step, {}))}".rstrip())
    click.echo(f"{len(status.checkpoint_steps)} checkpoints")


def records_of(folder: RunFolder, steps: set[int]) -> dict[int, Mapping[str, object]]:
    """Lines of steps.jsonl by their step."""
    from forklight_cli.run_folder import read_json_lines

    records = {record.get("step"): record for record in read_json_lines(folder.steps)}
    return {step: records[step] for step in steps if step in records}


def describe_record(record: Mapping[str, object]) -> str:
    """What helps to choose; nothing when the step left no line."""
    if not record:
        return ""
    at = record.get("time")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if isinstance(at, int | float) else ""
    figures = (
        f"{name} {value:.4g}"
        for name, key in (
            ("reward", "reward_mean"),
            ("entropy", "entropy"),
            ("p99 length", "length_p99"),
        )
        if isinstance(value := record.get(key), int | float)
    )
    return "  ".join([f"version {record.get('version')}", *figures, when])


def describe_way(folder: RunFolder, way: trainer_pb2.RollBackReply, reason: str) -> Iterator[str]:
    """What is given up, and what follows."""
    yield (
        f"the run has done step {way.from_step} (version {way.from_version}); it goes back to the "
        f"checkpoint of step {way.to_step} (version {way.to_version})"
    )
    steps = span_of("step", way.to_step + 1, way.from_step)
    yield f"  given up  {steps}, and the step under way if there is one"
    if way.from_version > way.to_version:
        versions = span_of("version", way.to_version + 1, way.from_version)
        yield f"            {versions}; what comes next takes these numbers again, with other weights"
    yield "  then      samples learned since are delivered and learned again, on a new line of the ledger"
    if (gone := last_deleted_step(folder, way.from_step)) > way.to_step:
        yield (
            f"            of {span_of('step', way.to_step + 1, gone)} they may be deleted already "
            "(checkpoints.keep_last): those count as lost, and new ones are generated"
        )
    yield f"            rollout pods load version {way.to_version} again"
    yield f"  reason    {reason}"


def span_of(noun: str, first: int, last: int) -> str:
    """`step 4`, or `steps 4 to 7 (4 of them)`."""
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last} ({last - first + 1} of them)"


def last_deleted_step(folder: RunFolder, step: int) -> int:
    """The newest step whose samples the buffer may have deleted: no kept checkpoint needs them."""
    from forklight_core.runfile import load_run_file

    run_file = load_run_file(folder.run_file)
    return step - run_file.checkpoints.keep_last * run_file.trainer.checkpoint_every_steps
