"""Is what the checkpoints have learned what the ledger says? Along every lineage: no gap, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from forklight_buffer.adapters.sqlite.lineages import ancestry
from forklight_buffer.audit.reading import CheckpointRecords, LedgerFile
from forklight_buffer.audit.report import Kind, LineageAudit, Violation
from forklight_buffer.records import Commit, Lineage

Commits = Mapping[tuple[str, int], Commit]


def read_lineages(ledger: LedgerFile) -> dict[str, Lineage]:
    """Every line of checkpoints."""
    return {
        row["lineage"]: Lineage(lineage=row["lineage"], parent=row["parent"], forked_at=row["forked_at"])
        for row in ledger.rows("SELECT * FROM lineages ORDER BY lineage")
    }


def read_commits(ledger: LedgerFile) -> dict[tuple[str, int], Commit]:
    """Every record of the ledger."""
    return {
        (row["lineage"], row["step"]): Commit(
            lineage=row["lineage"],
            step=row["step"],
            batch_id=row["batch_id"],
            sample_ids=tuple(json.loads(row["sample_ids"])),
        )
        for row in ledger.rows("SELECT * FROM commits ORDER BY lineage, step")
    }


def head_of(lineage: Lineage, commits: Commits) -> int:
    """Last step of a lineage."""
    return max([lineage.forked_at, *(step for name, step in commits if name == lineage.lineage)])


def find_gaps(lineages: Mapping[str, Lineage], commits: Commits) -> Iterator[Violation]:
    """Steps of a lineage's own part that have no record."""
    for line in lineages.values():
        for step in range(line.forked_at + 1, head_of(line, commits) + 1):
            if (line.lineage, step) not in commits:
                detail = f"step {step} has no commit record, later steps have"
                yield Violation(kind=Kind.COMMIT_GAP, subject=line.lineage, detail=detail)
    for name, step in commits:
        if name not in lineages:
            yield Violation(
                kind=Kind.FOREIGN, subject=f"{name}/{step}", detail="commit of an unknown lineage"
            )


def chain_of(lineage: str, lineages: Mapping[str, Lineage], commits: Commits) -> list[Commit]:
    """Records behind the newest checkpoint of a lineage, oldest first."""
    if lineage not in lineages:
        return []
    segments = ancestry(lineages, lineage, head_of(lineages[lineage], commits))
    steps = [(part.lineage, step) for part in segments for step in range(part.low + 1, part.high + 1)]
    return [commits[key] for key in steps if key in commits]


def find_repetitions(lineages: Mapping[str, Lineage], commits: Commits) -> Iterator[Violation]:
    """Samples that a checkpoint has learned twice."""
    for name in lineages:
        learned: dict[str, int] = {}
        for commit in chain_of(name, lineages, commits):
            for sample in commit.sample_ids:
                if sample in learned:
                    detail = f"learned at step {learned[sample]} and at step {commit.step} of lineage {name}"
                    yield Violation(kind=Kind.DUPLICATE, subject=sample, detail=detail)
                learned[sample] = commit.step


def find_disagreements(ledger: LedgerFile, chain: Sequence[Commit]) -> Iterator[Violation]:
    """Samples of the current line of checkpoints against their terminal states."""
    committed = {sample: commit for commit in chain for sample in commit.sample_ids}
    trained = {
        row["sample_id"]: (row["lineage"], row["step"])
        for row in ledger.rows("SELECT sample_id, lineage, step FROM samples WHERE state = 10")
    }
    for sample, commit in committed.items():
        if trained.get(sample) != (commit.lineage, commit.step):
            said = trained.get(sample, "not trained")
            detail = f"learned at step {commit.step} of {commit.lineage}, the sample says {said}"
            yield Violation(kind=Kind.NOT_TRAINED, subject=sample, detail=detail)
    for sample, (lineage, step) in trained.items():
        if sample not in committed:
            detail = f"says step {step} of {lineage}, no commit of the current line names it"
            yield Violation(kind=Kind.NOT_COMMITTED, subject=sample, detail=detail)


def compare_checkpoint(
    found: CheckpointRecords, lineages: Mapping[str, Lineage], commits: Commits, *, finished: bool
) -> Iterator[Violation | str]:
    """A checkpoint's records against the ledger's; records ahead of it are entered at the next restore: a
    note.
    """
    if found.lineage not in lineages:
        detail = f"is of lineage {found.lineage!r}, which the ledger does not know"
        yield Violation(kind=Kind.CHECKPOINT_MISMATCH, subject=found.name, detail=detail)
        return
    head = head_of(lineages[found.lineage], commits)
    ahead = [commit for commit in found.commits if commit.lineage == found.lineage and commit.step > head]
    for commit in found.commits:
        known = commits.get((commit.lineage, commit.step))
        if known is not None and set(known.sample_ids) != set(commit.sample_ids):
            detail = f"learned {len(commit.sample_ids)} samples at step {commit.step}, the ledger has others"
            yield Violation(kind=Kind.CHECKPOINT_MISMATCH, subject=found.name, detail=detail)
        elif known is None and commit not in ahead:
            detail = f"learned step {commit.step} of {commit.lineage}, of which the ledger has no record"
            yield Violation(kind=Kind.CHECKPOINT_MISMATCH, subject=found.name, detail=detail)
    if found.step > head:
        detail = f"has learned up to step {found.step}, the ledger ends at step {head}"
        steps = {commit.step for commit in ahead}
        if not finished and steps.issuperset(range(head + 1, found.step + 1)):
            yield f"{found.name} {detail}: its records are entered when it is restored"
        else:
            yield Violation(kind=Kind.CHECKPOINT_MISMATCH, subject=found.name, detail=detail)


def describe_lineages(
    lineages: Mapping[str, Lineage], commits: Commits, current: str
) -> Iterator[LineageAudit]:
    """Steps and samples of each line's own part."""
    for line in lineages.values():
        own = [commit for (name, _), commit in commits.items() if name == line.lineage]
        yield LineageAudit(
            lineage=line.lineage,
            parent=line.parent,
            forked_at=line.forked_at,
            num_steps=len(own),
            num_samples=sum(len(commit.sample_ids) for commit in own),
            is_current=line.lineage == current,
        )
