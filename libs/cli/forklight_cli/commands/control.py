"""`forklight pause`: run control of a system that is up."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option(
    "--reason", default="paused by hand", show_default=True, help="Shown wherever the run is shown."
)
def pause(run_folder: Path, reason: str) -> None:
    """Open and lease nothing new in the run of RUN_FOLDER until `forklight resume`."""
    from forklight.v1 import buffer_pb2
    from forklight_cli.buffer_client import connect_buffer
    from forklight_cli.person import who_asks
    from forklight_cli.run_folder import open_run_folder
    from forklight_core.control_log import audited

    folder = open_run_folder(run_folder)
    with (
        connect_buffer(folder) as buffer,
        audited(folder.path, who=who_asks(), action="pause", reason=reason) as answer,
    ):
        buffer.set_phase(buffer_pb2.RUN_PHASE_PAUSED, reason)
        answer.detail = "the run is paused"
    click.echo(f"paused; `forklight resume {run_folder}` lets it go on")
