"""`forklight config`: check, explain and print run files."""

from __future__ import annotations

from pathlib import Path

import click

SET_HELP = "Override a value: section.key=value. May be given again."


@click.group()
def config() -> None:
    """Check, explain and print run files."""


RUN_FILES = Path(__file__).parents[1] / "runfiles"
SHIPPED = {"nano": "demo.toml", "mini": "mini.toml", "small": "small.toml", "minimax-m1": "minimax-m1.toml"}


@config.command()
@click.argument("size", type=click.Choice(list(SHIPPED)))
def new(size: str) -> None:
    """Print a run file to start from: forklight config new small > run.toml"""
    click.echo((RUN_FILES / SHIPPED[size]).read_text(encoding="utf-8"), nl=False)


@config.command()
def schema() -> None:
    """JSON schema of the run file: every key with its type, bounds, default and explanation."""
    from forklight_core.runfile import describe

    click.echo(describe())


@config.command()
@click.argument("run_file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
def check(run_file: Path, overrides: tuple[str, ...]) -> None:
    """Read a run file as `up` would, and say everything that is wrong with it."""
    from forklight_cli.experiment import load_experiment

    for warning in load_experiment(run_file, overrides).deviations:
        click.echo(f"deviates from the paper, as allowed: {warning}")
    click.echo(f"{run_file}: fine")


@config.command()
@click.argument("run_file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
def show(run_file: Path, overrides: tuple[str, ...]) -> None:
    """The resolved run file, with where each value came from."""
    from forklight_core.runfile import dump_run_file, load_with_sources

    loaded = load_with_sources(run_file, overrides)
    section = ""
    for line in dump_run_file(loaded.run_file).splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        source = loaded.sources.get(f"{section}.{line.partition(' = ')[0]}", "")
        click.echo(f"{line:50}  # {source}" if source else line)
