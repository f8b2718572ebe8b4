"""`forklight repo`: repository tasks, from a faulty tree to rows of a prompt file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from forklight_cli.commands.output import print_json_line, write_lines
from forklight_cli.exits import ExitCode

ALL = "all"


@click.group()
def repo() -> None:
    """Repository tasks: list, show, prove, export and import them. TASK is a name or a file."""


@repo.command(name="list")
def list_tasks() -> None:
    """Print a JSON line for every task that comes along."""
    from forklight_reward.sandbox.repo.task import find_task, packaged_names

    for name in packaged_names():
        task = find_task(name)
        tests = task.tests
        print_json_line(
            {
                "task": name,
                "issue": task.issue.strip().splitlines()[0],
                "num_files": len(tests.files),
                "num_f2p": len(tests.f2p),
                "num_p2p": len(tests.p2p),
            }
        )


@repo.command()
@click.argument("name", metavar="TASK")
@click.option("--fix", is_flag=True, help="The known fix instead of the prompt.")
def show(name: str, fix: bool) -> None:
    """Print what the policy would read of a task."""
    from forklight_reward.sandbox.repo.task import find_task

    task = find_task(name)
    click.echo(task.fix if fix else task.prompt(), nl=False)


@repo.command()
@click.argument("names", metavar="TASK...", nargs=-1, required=True)
@click.pass_context
def check(context: click.Context, names: tuple[str, ...]) -> None:
    """Prove that a TASK is one (`all`: every task that comes along): without a patch its fail-to-pass tests
    fail and the others pass, with the known fix all pass. One JSON line each; exit code 1 when one is not.
    """
    from forklight_reward.sandbox.jail_runner import open_jail_runner
    from forklight_reward.sandbox.repo.check import check_task
    from forklight_reward.sandbox.repo.task import find_task, packaged_names

    tasks = [find_task(name) for name in (packaged_names() if names == (ALL,) else names)]
    is_well = True
    with closing(open_jail_runner()) as runner:
        for task in tasks:
            found = check_task(task, runner)
            is_well = is_well and not found.problems
            print_json_line(
                {
                    "task": found.task_id,
                    "ok": not found.problems,
                    "problems": list(found.problems),
                    "wall_s": round(found.wall_s, 1),
                }
            )
    if not is_well:
        context.exit(ExitCode.FAILED)


@repo.command()
@click.argument("names", metavar="TASK...", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON lines for `prompts.train`.")
@click.option("--shell", is_flag=True, help="For a policy that works in the tree with the tool `shell`.")
def export(names: tuple[str, ...], out: Path, shell: bool) -> None:
    """Write TASKs (`all`: every task that comes along) as rows of a prompt file, of kind code."""
    from forklight_reward.sandbox.repo.task import find_task, packaged_names, prompt_row

    tasks = [find_task(name) for name in (packaged_names() if names == (ALL,) else names)]
    rows = (prompt_row(task, with_shell=shell) for task in tasks)
    print_json_line({"out": str(out), "num_written": write_lines(out, rows)})


@repo.command(name="import")
@click.argument("records", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for a task file each.")
@click.option(
    "--trees", type=click.Path(path_type=Path), help="Folder that the records' archives are relative to."
)
@click.pass_context
def import_records(context: click.Context, records: Path, out: Path, trees: Path | None) -> None:
    """Make tasks of records like SWE-bench's (RECORDS is JSON lines). Trees come from this machine only.

    One JSON line for each record that is refused, a summary at the end; exit code 1 when none was taken.
    """
    from forklight_reward.sandbox.repo.importing import import_file

    summary = import_file(records, out, trees or records.parent)
    for refusal in summary.refused:
        print_json_line({"record": refusal.record, "refused": refusal.reason})
    print_json_line(
        {"out": str(out), "num_written": summary.num_written, "num_refused": len(summary.refused)}
    )
    if not summary.num_written:
        context.exit(ExitCode.FAILED)
