"""`forklight audit`: does what is on disk prove that nothing was lost and nothing learned twice?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_cli.exits import ExitCode

if TYPE_CHECKING:
    from forklight_cli.run_folder import RunFolder


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(run_folder: Path, as_json: bool) -> ExitCode:
    """Check the ledger, the queues and the checkpoints of RUN_FOLDER against each other, running or not.

    Exit code 1 when something was lost, learned twice, or is said differently in two places.
    """
    from forklight_buffer.audit import audit_run
    from forklight_cli.run_folder import open_run_folder

    folder = open_run_folder(run_folder)
    with redis_of(folder) as redis_url:
        report = audit_run(folder.path, redis_url)
    click.echo(report.to_json() if as_json else report.to_table())
    return ExitCode.OK if report.ok else ExitCode.FAILED


@contextmanager
def redis_of(folder: RunFolder) -> Iterator[str | None]:
    """The server with the run's open state: the running one, or the embedded one started for the audit."""
    from forklight_cli.run_folder import is_locked, read_system
    from forklight_core.redis_server import start_embedded

    known = read_system(folder).redis_url
    if is_locked(folder) or (known and not folder.redis.is_dir()):
        yield known or None
    elif folder.redis.is_dir():
        with start_embedded(folder.redis) as server:
            yield server.url
    else:
        yield None
