"""The audit: proves from what is on disk (and in Redis, when given) that nothing was lost and nothing
learned twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from forklight_buffer.audit import commit_checks, sample_checks
from forklight_buffer.audit.reading import LedgerFile, read_checkpoints, read_live_groups
from forklight_buffer.audit.report import AuditReport, Kind, Violation
from forklight_buffer.keys import BufferKeys
from forklight_buffer.live import LiveGroup
from forklight_buffer.states import Phase, State
from forklight_core.queues import RunKeys

LOOKS = 3
PAUSE_S = 0.2


def audit_run(run_folder: Path, redis_url: str | None) -> AuditReport:
    """Audit a run, running or stopped. `redis_url` may name a server restarted on the run's redis folder.

    Without Redis the open samples of an unfinished run are reported as open (resumable). DataLossError for a
    torn checkpoint record, NotFoundError for a folder without a ledger.
    """
    for _ in range(LOOKS):
        report = _look(run_folder, redis_url)
        if not report.live_state_read or not report.count(Kind.LOST):
            break
        time.sleep(PAUSE_S)  # of a running system, Redis and the ledger cannot be read at the same instant
    return report


def _look(run_folder: Path, redis_url: str | None) -> AuditReport:
    ledger = LedgerFile(run_folder / "ledger.sqlite")
    try:
        notes = {row["name"]: row["value"] for row in ledger.rows("SELECT * FROM notes")}
        live = None
        if redis_url is not None:
            live = read_live_groups(redis_url, BufferKeys(RunKeys(notes.get("run_id", ""))))
        return _audit(run_folder, ledger, notes, live)
    finally:
        ledger.close()


def _audit(
    run_folder: Path, ledger: LedgerFile, notes: dict[str, str], live: dict[str, LiveGroup] | None
) -> AuditReport:
    phase = Phase(int(notes.get("phase", "1")))
    open_ids = sample_checks.open_samples(ledger)
    lineages, commits = commit_checks.read_lineages(ledger), commit_checks.read_commits(ledger)
    current = notes.get("lineage", "")
    checkpoints = read_checkpoints(run_folder)
    violations = [*_check_samples(ledger, open_ids, live, phase)]
    violations += commit_checks.find_gaps(lineages, commits)
    violations += commit_checks.find_repetitions(lineages, commits)
    violations += commit_checks.find_disagreements(ledger, commit_checks.chain_of(current, lineages, commits))
    remarks: list[str] = []
    for checkpoint in checkpoints:
        for found in commit_checks.compare_checkpoint(
            checkpoint, lineages, commits, finished=phase is Phase.FINISHED
        ):
            if isinstance(found, Violation):
                violations.append(found)
            else:
                remarks.append(found)
    return AuditReport(
        run_id=notes.get("run_id", ""),
        phase=phase.name.lower(),
        step=int(notes.get("step", "0")),
        lineage=current,
        num_groups=ledger.number("SELECT count(*) FROM groups"),
        num_samples=ledger.number("SELECT sum(size) FROM groups"),
        terminal=_terminal_counts(ledger),
        num_open=sum(map(len, open_ids.values())),
        open_states={} if live is None else sample_checks.count_open_states(open_ids, live),
        live_state_read=live is not None,
        lineages=tuple(commit_checks.describe_lineages(lineages, commits, current)),
        num_rollbacks=ledger.number("SELECT count(*) FROM rollbacks"),
        num_checkpoints=len(checkpoints),
        notes=tuple(remarks),
        violations=tuple(violations),
        num_saved_tokens=sample_checks.count_saved_tokens(live or {}),
    )


def _check_samples(
    ledger: LedgerFile, open_ids: dict[str, list[str]], live: dict[str, LiveGroup] | None, phase: Phase
) -> Iterator[Violation]:
    yield from sample_checks.find_conflicts(ledger)
    yield from sample_checks.find_foreign(ledger)
    yield from sample_checks.find_closed_losses(ledger)
    yield from sample_checks.find_wrong_tallies(ledger)
    if live is not None:
        known = {row["group_id"] for row in ledger.rows("SELECT group_id FROM groups")}
        yield from sample_checks.find_live_losses(open_ids, live, known)
        yield from sample_checks.find_segment_faults(live)
    if phase is Phase.FINISHED:
        for group_id, names in open_ids.items():
            for name in sample_checks.without_ended(names, (live or {}).get(group_id)):
                yield Violation(
                    kind=Kind.OPEN_AFTER_FINISH, subject=name, detail="open although the run is finished"
                )


def _terminal_counts(ledger: LedgerFile) -> dict[str, int]:
    counts = {}
    for row in ledger.rows(
        "SELECT state, substr(reason, 1, instr(reason || ':', ':') - 1) AS short, count(*) AS num "
        "FROM samples GROUP BY state, short ORDER BY state, short"
    ):
        name = State(row["state"]).name.lower()
        counts[f"{name}/{row['short']}" if row["short"] else name] = row["num"]
    return counts


__all__ = ["AuditReport", "Kind", "Violation", "audit_run"]
