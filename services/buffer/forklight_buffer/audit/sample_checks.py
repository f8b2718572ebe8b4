"""Is every sample accounted for exactly once: terminal, open, and nothing else?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from forklight_buffer.audit.reading import LedgerFile
from forklight_buffer.audit.report import Kind, Violation
from forklight_buffer.live import LiveGroup, LiveSample
from forklight_buffer.states import State
from forklight_core import ids


def find_conflicts(ledger: LedgerFile) -> Iterator[Violation]:
    """Second, different terminal states: refused, and yet a sign that something believes otherwise."""
    for row in ledger.rows("SELECT * FROM conflicts ORDER BY id"):
        kept, refused = State(row["kept"]).name.lower(), State(row["refused"]).name.lower()
        yield Violation(
            kind=Kind.CONFLICT,
            subject=row["sample_id"],
            detail=f"is {kept}, {refused} was refused; {row['detail']}",
        )


def find_foreign(ledger: LedgerFile) -> Iterator[Violation]:
    """Samples of groups that were never opened, or outside their group."""
    sql = (
        "SELECT s.sample_id, s.group_id, g.size FROM samples s LEFT JOIN groups g USING (group_id) "
        "WHERE g.group_id IS NULL OR CAST(substr(s.sample_id, length(s.group_id) + 3) AS INTEGER) >= g.size"
    )
    for row in ledger.rows(sql):
        detail = (
            f"group {row['group_id']} was never opened"
            if row["size"] is None
            else f"group has {row['size']} samples"
        )
        yield Violation(kind=Kind.FOREIGN, subject=row["sample_id"], detail=detail)


def find_closed_losses(ledger: LedgerFile) -> Iterator[Violation]:
    """Groups that are over although samples of them never ended."""
    sql = (
        "SELECT g.group_id, g.size, count(s.sample_id) AS ended FROM groups g LEFT JOIN samples s USING "
        "(group_id) WHERE g.closed = 1 GROUP BY g.group_id HAVING ended < g.size"
    )
    for row in ledger.rows(sql):
        detail = f"the group is over, but only {row['ended']} of its {row['size']} samples ended"
        yield Violation(kind=Kind.LOST, subject=row["group_id"], detail=detail)


def find_wrong_tallies(ledger: LedgerFile) -> Iterator[Violation]:
    """Running totals against a recount."""
    counted = {
        (row["state"], row["short"]): row["num"]
        for row in ledger.rows(
            "SELECT state, substr(reason, 1, instr(reason || ':', ':') - 1) AS short, count(*) AS num "
            "FROM samples GROUP BY state, short"
        )
    }
    kept = {
        (row["state"], row["reason"]): row["num"]
        for row in ledger.rows("SELECT * FROM tallies WHERE num <> 0")
    }
    for key in sorted(set(counted) | set(kept)):
        if counted.get(key, 0) != kept.get(key, 0):
            name = f"{State(key[0]).name.lower()}/{key[1]}"
            detail = f"the ledger counts {kept.get(key, 0)}, there are {counted.get(key, 0)}"
            yield Violation(kind=Kind.TALLY, subject=name, detail=detail)


def open_samples(ledger: LedgerFile) -> dict[str, list[str]]:
    """Samples the ledger has not seen the end of, by group."""
    ended: dict[str, set[str]] = {}
    for row in ledger.rows(
        "SELECT sample_id, group_id FROM samples WHERE group_id IN (SELECT "
        "group_id FROM groups WHERE closed = 0)"
    ):
        ended.setdefault(row["group_id"], set()).add(row["sample_id"])
    found = {}
    for row in ledger.rows("SELECT group_id, size FROM groups WHERE closed = 0 ORDER BY group_id"):
        names = [ids.sample_id(row["group_id"], index) for index in range(row["size"])]
        found[row["group_id"]] = [name for name in names if name not in ended.get(row["group_id"], set())]
    return found


def find_live_losses(
    open_ids: Mapping[str, list[str]], live: Mapping[str, LiveGroup], known: set[str]
) -> Iterator[Violation]:
    """Open samples Redis does not have, and groups of Redis that nobody opened."""
    for group_id, names in open_ids.items():
        if names and group_id not in live:
            detail = f"{len(names)} samples are open in the ledger and Redis does not have the group"
            yield Violation(kind=Kind.LOST, subject=group_id, detail=detail)
    for group_id in live:
        if group_id not in known:
            yield Violation(
                kind=Kind.FOREIGN, subject=group_id, detail="is open in Redis and was never opened"
            )


def find_segment_faults(live: Mapping[str, LiveGroup]) -> Iterator[Violation]:
    """Segments begin at token 0, leave no gap, stay in the window, and only queued samples have any."""
    for group_id, group in live.items():
        for sample in group.samples:
            fault = _segment_fault(group, sample)
            if fault:
                yield Violation(
                    kind=Kind.SEGMENT, subject=ids.sample_id(group_id, sample.index), detail=fault
                )


def _segment_fault(group: LiveGroup, sample: LiveSample) -> str:
    if sample.segments and sample.state is not State.QUEUED:
        return f"is {sample.state.name.lower()} and still has {len(sample.segments)} segments"
    expected = 0
    for segment in sample.segments:
        if segment.start != expected or not segment.num_tokens:
            return f"has a segment of {segment.num_tokens} tokens at {segment.start}, expected at {expected}"
        expected += segment.num_tokens
    return f"has {expected} saved tokens, its window is {group.window}" if expected > group.window else ""


def count_saved_tokens(live: Mapping[str, LiveGroup]) -> int:
    """Tokens in segments."""
    return sum(sample.num_saved_tokens for group in live.values() for sample in group.samples)


def without_ended(names: Sequence[str], group: LiveGroup | None) -> Iterator[str]:
    """Samples that have not ended in Redis either; what has is journalled at the next start."""
    for name in names:
        if group is None or not group.samples[ids.sample_index(name)].state.terminal:
            yield name


def count_open_states(open_ids: Mapping[str, list[str]], live: Mapping[str, LiveGroup]) -> dict[str, int]:
    """Open samples by state; those that have ended in Redis and are not in the ledger yet count as ended
    there.
    """
    counts: Counter[str] = Counter()
    for group_id, names in open_ids.items():
        group = live.get(group_id)
        for name in names:
            state = "unknown" if group is None else group.samples[ids.sample_index(name)].state.name.lower()
            counts[state] += 1
    return dict(counts)
