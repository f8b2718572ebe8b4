"""`forklight demo`: from random weights to a held-out reward on this machine, with nothing to prepare."""

from __future__ import annotations

from pathlib import Path

import click

from forklight_cli.commands.config import SET_HELP
from forklight_cli.exits import ExitCode

RUN_FILE = Path(__file__).parents[1] / "runfiles" / "demo.toml"


@click.command()
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
@click.option("--folder", type=click.Path(path_type=Path), help="Run folder. Default: runs/demo-DATE-XXXX.")
def demo(overrides: tuple[str, ...], folder: Path | None) -> ExitCode:
    """Teach a tiny model arithmetic: make data, cold start, then reinforcement until the held-out goal.

    Exit code 0 means that the goal was reached.
    """
    from forklight_cli.arithmetic import write_arithmetic
    from forklight_cli.commands.up import make_folder
    from forklight_cli.experiment import load_experiment
    from forklight_cli.up.run import run_system
    from forklight_cli.up.summary import summarize
    from forklight_core.ids import new_run_id

    run_id = new_run_id("demo")
    folder = folder or Path("runs") / run_id
    files = write_arithmetic(folder.resolve() / "data")
    paths = (
        f'prompts.train="{files.prompts}"',
        f'prompts.holdout="{files.holdout}"',
        f'sft.demonstrations="{files.demonstrations}"',
    )
    experiment = load_experiment(RUN_FILE, (*paths, *overrides))
    run_folder = make_folder(experiment.run_file, folder, run_id)
    click.echo(f"run folder: {run_folder.path}")
    outcome = run_system(run_folder, announce=click.echo)
    click.echo(summarize(outcome))
    return ExitCode.OK if outcome.goal_reached else ExitCode.FAILED
