"""`forklight sandbox`: programs in the jail of the reward service."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def sandbox() -> None:
    """Run programs as the reward service does: jailed and limited."""


@sandbox.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path))
def run(specs: tuple[Path, ...]) -> None:
    """Run each of SPECS (JSON files) and print one JSON line each."""
    from forklight_reward.sandbox.run import run_spec_file

    for spec in specs:
        click.echo(run_spec_file(str(spec)))
