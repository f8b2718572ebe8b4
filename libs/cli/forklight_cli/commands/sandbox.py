"""`forklight sandbox`: programs in the jail of the reward service."""

from __future__ import annotations

from pathlib import Path

import click

from forklight_cli.exits import ExitCode, exit_code_of


@click.group()
def sandbox() -> None:
    """Run programs as the reward service does: jailed and limited."""


@sandbox.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--tier", type=click.Choice(["process", "jail", "container", "pod"]), default="jail", show_default=True
)
@click.option("--image", default="", help="Of --tier container and pod: one with python3 (and c++).")
@click.option("--allow-unsafe", is_flag=True, help="Of --tier process: every program in SPECS is trusted.")
def run(specs: tuple[Path, ...], tier: str, image: str, allow_unsafe: bool) -> None:
    """Run each of SPECS (JSON files) and print one JSON line each, in order.

    A file that is no spec, or a sandbox that fails, gives a line without a score (mask true, score null)
    and costs no other file its line. The exit code is 0 when every file got a verdict, 2 when one was no
    spec, else 3.
    """
    from forklight_reward.sandbox.spec_files import run_spec_files
    from forklight_reward.sandbox.tiers.choice import open_runner, section_of

    section = section_of(tier=tier, image=image, allow_unsafe=allow_unsafe)
    codes = [ExitCode.OK]
    for line in run_spec_files([str(spec) for spec in specs], open_sandbox=lambda: open_runner(section)):
        click.echo(line.text)
        if line.error is not None:
            click.echo(f"forklight: {line.error}", err=True)
            codes.append(exit_code_of(line.error))
    code = ExitCode.BAD_INPUT if ExitCode.BAD_INPUT in codes else max(codes)
    if code is not ExitCode.OK:
        raise SystemExit(int(code))
