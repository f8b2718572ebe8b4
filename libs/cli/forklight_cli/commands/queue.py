"""`forklight queue`: dead letters of a run."""

from __future__ import annotations

import time
from pathlib import Path

import click

from forklight_cli.commands.output import message_fields, print_json


@click.group()
def queue() -> None:
    """Dead letters of a run: queue entries that were given up."""


@queue.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def dead(run_folder: Path, limit: int, as_json: bool) -> None:
    """List the dead letters of RUN_FOLDER with the reason of each."""
    from forklight_cli.buffer_client import connect_buffer
    from forklight_cli.run_folder import open_run_folder

    with connect_buffer(open_run_folder(run_folder)) as buffer:
        letters = buffer.dead_letters(limit=limit)
    if as_json:
        return print_json([message_fields(letter) for letter in letters])
    for letter in letters:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.at))
        what = letter.sample_id or letter.group_id
        click.echo(
            f"{letter.id}  {at}  {letter.queue}  {what}  {letter.num_deliveries} deliveries  {letter.reason}"
        )
    click.echo(f"{len(letters)} dead letters")
    return None


@queue.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.argument("ids", nargs=-1)
@click.option("--reason", default="redriven by hand", show_default=True, help="Kept in control.jsonl.")
def redrive(run_folder: Path, ids: tuple[str, ...], reason: str) -> None:
    """Open fresh groups for the prompts of dead letters: those of IDS, or all."""
    from forklight_cli.buffer_client import connect_buffer
    from forklight_cli.person import who_asks
    from forklight_cli.run_folder import open_run_folder
    from forklight_core.control_log import audited

    folder, target = open_run_folder(run_folder), ",".join(ids)
    with (
        connect_buffer(folder) as buffer,
        audited(folder.path, who=who_asks(), action="redrive", reason=reason, target=target) as answer,
    ):
        answer.detail = f"{buffer.redrive(ids)} groups opened again"
    click.echo(answer.detail)
