"""`forklight doctor`: checks in the order in which a start would trip over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.output import print_json
from forklight_cli.exits import ExitCode

if TYPE_CHECKING:
    from forklight_cli.doctor.finding import Finding


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> ExitCode:
    """Check this machine; exit code 1 when something will not work."""
    findings = []
    for check in list_checks():
        finding = check()
        findings.append(finding)
        if not as_json:
            print_finding(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    return ExitCode.FAILED if any(finding.level == "FAIL" for finding in findings) else ExitCode.OK


def list_checks() -> Iterator[Callable[[], Finding]]:
    """Every check, cheap ones first."""
    from forklight_cli.doctor import machine, neighbours, packages

    yield from (machine.check_python, packages.check_packages, machine.check_cores, machine.check_memory)
    yield from (machine.check_disk, machine.check_fsync, machine.check_open_files, machine.check_ports)
    yield from (machine.check_clock, neighbours.check_redis, neighbours.check_sandbox)
    yield from (packages.check_torch, packages.check_gpu, packages.check_numerics)
    yield packages.check_transformers
    yield neighbours.check_telemetry


def print_finding(finding: Finding) -> None:
    """One line, and the way out below it."""
    colour = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}[finding.level]
    click.echo(f"{click.style(finding.level, fg=colour)}  {finding.name:12} {finding.detail}")
    if finding.fix:
        click.echo(f"      {'':12} fix: {finding.fix}")
