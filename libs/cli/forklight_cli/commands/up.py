"""`forklight up` and `forklight resume`: the whole system in this terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.config import SET_HELP
from forklight_cli.exits import ExitCode

if TYPE_CHECKING:
    from forklight_cli.run_folder import RunFolder
    from forklight_core.runfile import RunFile


@click.command()
@click.argument("run_file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
@click.option("--run-id", help="Id of the run. Default: its name, the date and four random digits.")
@click.option("--folder", type=click.Path(path_type=Path), help="Run folder. Default: run.folder / run id.")
@click.option("--dry-run", is_flag=True, help="Print the resolved run file and the processes; start nothing.")
def up(
    run_file: Path, overrides: tuple[str, ...], run_id: str | None, folder: Path | None, dry_run: bool
) -> ExitCode:
    """Start the whole system of RUN_FILE and stay until the run ends.

    Ctrl-C stops it in order and leaves a run folder for `forklight resume`; a second Ctrl-C kills.
    """
    from forklight_cli.experiment import load_experiment
    from forklight_core.ids import check_run_id, new_run_id

    experiment = load_experiment(run_file, overrides)
    run_id = check_run_id(run_id) if run_id else new_run_id(experiment.run_file.run.name)
    folder = folder or Path(experiment.run_file.run.folder) / run_id
    if dry_run:
        return show_plan(experiment.run_file, folder, run_id)
    for warning in experiment.deviations:
        click.echo(f"deviates from the paper, as allowed: {warning}")
    return bring_up(make_folder(experiment.run_file, folder, run_id))


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
def resume(run_folder: Path, overrides: tuple[str, ...]) -> ExitCode:
    """Go on with the run of RUN_FOLDER, or let it go on when it is up and paused."""
    from forklight_cli.run_folder import is_locked, open_run_folder

    folder = open_run_folder(run_folder)
    if is_locked(folder) and not overrides and unpause(folder):
        return ExitCode.OK
    if overrides:
        rewrite_run_file(folder, overrides)
    return bring_up(folder, reopen=bool(overrides))


def show_plan(run_file: RunFile, folder: Path, run_id: str) -> ExitCode:
    """What would run."""
    from forklight_cli.run_folder import RunFolder
    from forklight_cli.up.plan import describe_plan, plan_system
    from forklight_core.runfile import dump_run_file

    plan = plan_system(run_file, RunFolder(folder.resolve()), run_id, "redis://127.0.0.1:PORT/0")
    click.echo(dump_run_file(run_file))
    click.echo(f"# run id      {run_id}\n# run folder  {folder}")
    for line in describe_plan(plan):
        click.echo(f"# {line}")
    return ExitCode.OK


def make_folder(run_file: RunFile, folder: Path, run_id: str) -> RunFolder:
    """A new run folder with the resolved run file."""
    from forklight_cli.run_folder import create_run_folder
    from forklight_core.errors import ConfigError
    from forklight_core.runfile import dump_run_file

    if not run_file.prompts.train:
        raise ConfigError("prompts.train is empty: give a file of JSON lines {id, prompt, kind, gold}")
    return create_run_folder(folder, run_id, dump_run_file(run_file))


def rewrite_run_file(folder: RunFolder, overrides: tuple[str, ...]) -> None:
    """Resume under other settings: they become the run folder's."""
    import os

    from forklight_cli.experiment import load_experiment
    from forklight_cli.run_folder import lock_run_folder, write_atomically
    from forklight_core.runfile import dump_run_file

    lock = lock_run_folder(folder)
    try:
        write_atomically(folder.run_file, dump_run_file(load_experiment(folder.run_file, overrides).run_file))
    finally:
        os.close(lock)


def unpause(folder: RunFolder) -> bool:
    """Let a run that is up and paused go on; False when it is not paused."""
    from forklight.v1 import buffer_pb2
    from forklight_cli.buffer_client import connect_buffer

    with connect_buffer(folder) as buffer:
        if buffer.status().phase != buffer_pb2.RUN_PHASE_PAUSED:
            return False
        buffer.set_phase(buffer_pb2.RUN_PHASE_RUNNING, "")
    click.echo("the run goes on")
    return True


def bring_up(folder: RunFolder, *, reopen: bool = False) -> ExitCode:
    """Run the system of a folder to its end and say what came of it."""
    from forklight_cli.up.run import STOPPED, run_system
    from forklight_cli.up.summary import summarize

    click.echo(f"run folder: {folder.path}")
    outcome = run_system(folder, announce=click.echo, reopen=reopen)
    click.echo(summarize(outcome))
    if outcome.is_finished:
        return ExitCode.FAILED if outcome.goal_reached is False else ExitCode.OK
    return ExitCode.OK if outcome.stopped_because == STOPPED else ExitCode.FAILED
