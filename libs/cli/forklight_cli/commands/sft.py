"""`forklight sft`: the supervised cold start alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.config import SET_HELP
from forklight_cli.exits import ExitCode

if TYPE_CHECKING:
    from forklight_cli.cold_start import SftEvent

EPILOG = """\b
Examples:
  forklight sft run.toml --dry-run
  forklight sft run.toml --out cold-start
  forklight sft run.toml --out cold-start --resume

\b
A line of the demonstrations is one of
  {"prompt": "2+2=", "response": "4"}
  {"messages": [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}]}
and may have "weight": 0.5 and, of messages, "train": "last" (only the last answer counts).

Settings: section [sft] of the run file (`forklight config schema` explains each). Ctrl-C saves first."""


@click.command(epilog=EPILOG)
@click.argument("run_file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--resume", is_flag=True, help="Go on with what an earlier call left in OUT.partial.")
@click.option("--dry-run", is_flag=True, help="Check every line and say what a step would be; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an event.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
def sft(
    run_file: Path, out: Path | None, resume: bool, dry_run: bool, as_json: bool, overrides: tuple[str, ...]
) -> ExitCode:
    """Train on the demonstrations of RUN_FILE and write a model folder.

    All lines are checked before training begins, and what is wrong is told by FILE:LINE.
    """
    import tempfile

    from forklight_cli.cold_start import check_demonstrations, run_cold_start
    from forklight_cli.experiment import load_experiment
    from forklight_core.runfile import dump_run_file

    if out is None and not dry_run:
        raise click.UsageError("give --out DIR, the model folder to write, or --dry-run")
    experiment = load_experiment(run_file, overrides).run_file
    tell = teller(as_json=as_json)
    with tempfile.TemporaryDirectory() as folder:
        resolved, log = Path(folder) / "run.toml", Path(folder) / "sft.log"
        resolved.write_text(dump_run_file(experiment))
        if out is None or dry_run:
            check_demonstrations(resolved, log=log, progress=tell)
            return ExitCode.OK
        try:
            run_cold_start(resolved, out.resolve(), log=log, progress=tell, resume=resume)
        except KeyboardInterrupt:
            click.echo(f"stopped; what is done is saved: go on with --out {out} --resume", err=True)
            return ExitCode.FAILED
    return ExitCode.OK


def teller(*, as_json: bool) -> Callable[[SftEvent], None]:
    """Prints an event as a line for people, or as it is."""
    from forklight_cli.cold_start_report import describe_event
    from forklight_cli.commands.output import print_json_line

    def tell(event: SftEvent) -> None:
        if as_json:
            print_json_line(event)
        elif text := describe_event(event):
            click.echo(text)

    return tell
