"""`forklight verdict`: what the reward service said of a sample, proven, shown and said again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from forklight_cli.commands.output import print_json
from forklight_cli.exits import ExitCode


@click.group()
def verdict() -> None:
    """Verdicts of a run: show one, score it again, prove that none was changed."""


@verdict.command()
@click.argument("key")
@click.option(
    "--run", "run_folder", type=click.Path(path_type=Path), required=True, help="Folder of the run."
)
@click.option("--evidence", is_flag=True, help="Print the longer evidence instead, as it was kept.")
def show(key: str, run_folder: Path, evidence: bool) -> None:
    """Every verdict of KEY (its first 8 digits will do), or of a sample id, as JSON, oldest first."""
    from forklight_reward.audit.evidence import EvidenceStore
    from forklight_reward.audit.find import find_verdicts
    from forklight_reward.audit.log import FOLDER

    folder = run_folder / FOLDER
    found = find_verdicts(folder, key)
    if not evidence:
        return print_json([{"line": f"{each.path}:{each.number}", **each.body} for each in found])
    reference = str(found[-1].body.get("evidence_ref"))
    if not reference:
        return click.echo(str(found[-1].body.get("evidence")))
    return click.echo(EvidenceStore(folder / "evidence").get(reference), nl=False)


@verdict.command()
@click.argument("key")
@click.option(
    "--run", "run_folder", type=click.Path(path_type=Path), required=True, help="Folder of the run."
)
@click.option("--judge", default="", help="host:port of a judge; else the run's own, if it is up.")
def replay(key: str, run_folder: Path, judge: str) -> ExitCode:
    """Score the newest verdict of KEY, or of a sample id, again; both sides as JSON.

    Exit code 1 when status, score or a part differ.
    """
    import asyncio
    import os

    from forklight_cli.run_folder import is_locked, open_run_folder, read_system
    from forklight_reward.audit.replay_run import replay_from_run

    folder = open_run_folder(run_folder)
    if not judge and is_locked(folder):
        judge = read_system(folder).addresses.get("reward-judge", "")
    blobs_url = os.environ.get("FORKLIGHT_BLOBS_URL", folder.blobs.as_uri())
    found, result = asyncio.run(replay_from_run(folder.path, key, blobs_url=blobs_url, judge_address=judge))
    print_json(
        {
            "key": found.body["key"],
            "sample": found.body["sample"],
            "same": result.is_same,
            "differs": list(result.differs),
            "other_version": result.other_version,
            "stored": result.stored,
            "replayed": result.replayed,
        }
    )
    return ExitCode.OK if result.is_same else ExitCode.FAILED


@verdict.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(folder: Path, as_json: bool) -> ExitCode:
    """Prove the chains of FOLDER (a run folder, or its verdicts/); name the first broken line of each file.

    Exit code 1 when a file is broken, or says that verdicts are missing. Keep the printed hashes elsewhere:
    who can write the files can write them all anew.
    """
    from forklight_reward.audit.check import ShardReport, check_folder
    from forklight_reward.audit.log import FOLDER

    reports = check_folder(folder / FOLDER if (folder / FOLDER).is_dir() else folder)

    def row(report: ShardReport) -> Mapping[str, object]:
        return {
            "file": report.path.name,
            "state": report.state,
            "lines": report.contents.num_lines,
            "verdicts": report.lines["verdict"],
            "lost": report.num_lost,
            "torn_bytes": len(report.contents.torn),
            "head": report.contents.head,
            "fault": report.fault,
        }

    if as_json:
        print_json([row(report) for report in reports])
    else:
        for report in reports:
            shown = (f"{name} {value}" for name, value in row(report).items() if value not in (0, ""))
            click.echo("  ".join(shown))
    is_whole = not any(report.fault or report.num_lost for report in reports)
    return ExitCode.OK if is_whole else ExitCode.FAILED
