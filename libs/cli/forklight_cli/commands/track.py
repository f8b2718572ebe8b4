"""`forklight track`: the step records of a run into TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import time
from pathlib import Path

import click

EPILOG = """\b
Examples:
  forklight track runs/demo-1 --to tensorboard
  WANDB_MODE=offline forklight track runs/demo-1 --to wandb --follow
  MLFLOW_TRACKING_URI=http://mlflow:5000 forklight track runs/demo-1 --to mlflow --project maths
"""
POLL_S = 5.0


@click.command(epilog=EPILOG)
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option(
    "--to", "name", required=True, type=click.Choice(["tensorboard", "wandb", "mlflow"]), help="Tracker."
)
@click.option(
    "--project", default="forklight", show_default=True, help="Project or experiment of the tracker."
)
@click.option("--follow", is_flag=True, help="Go on while the run does, until Ctrl-C.")
def track(run_folder: Path, name: str, project: str, follow: bool) -> None:
    """Send the numbers of every optimizer step of the run of RUN_FOLDER to a tracker.

    Goes on where it ended the last time. It reads steps.jsonl beside the run: a tracker that is slow or away
    never holds up training. A step that was given up and done again is sent again.
    """
    from forklight_cli.run_folder import open_run_folder, read_system
    from forklight_cli.trackers import Feed, Target, TrackerName, open_tracker
    from forklight_console.compare.shelf import read_keys

    folder = open_run_folder(run_folder)
    run_id = read_system(folder).run_id
    home = folder.path / "trackers"
    target = Target(run_id=run_id, folder=home, project=project, keys=read_keys(folder.run_file))
    tracker = open_tracker(TrackerName(name), target)
    try:
        feed = Feed(folder.steps, home / f"{name}.json", tracker)
        click.echo(f"{feed.send()} steps of {run_id} sent to {name}, up to step {feed.last_step}")
        while follow:
            time.sleep(POLL_S)
            if sent := feed.send():
                click.echo(f"{sent} steps sent, up to step {feed.last_step}")
    finally:
        tracker.close()
