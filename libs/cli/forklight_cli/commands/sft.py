"""`forklight sft`: the supervised cold start alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from forklight_cli.commands.config import SET_HELP


@click.command()
@click.argument("run_file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Model folder to write.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
def sft(run_file: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Train on the demonstrations of RUN_FILE and write a model folder."""
    import tempfile

    from forklight_cli.cold_start import run_cold_start
    from forklight_cli.experiment import load_experiment
    from forklight_core.errors import ConfigError
    from forklight_core.runfile import dump_run_file

    experiment = load_experiment(run_file, overrides).run_file
    if not experiment.sft.demonstrations:
        raise ConfigError(
            f"{run_file}: sft.demonstrations is empty: give a file of JSON lines {{prompt, response}}"
        )

    def tell(step: Mapping[str, float]) -> None:
        click.echo(
            f"step {step['step']}/{step['num_steps']} loss {step['loss']:.4f} time {step['seconds']:.1f} s"
        )

    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder) / "run.toml"
        resolved.write_text(dump_run_file(experiment))
        run_cold_start(resolved, out.resolve(), log=Path(folder) / "sft.log", progress=tell)
    click.echo(f"model: {out}")
