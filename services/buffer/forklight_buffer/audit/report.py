"""What an audit says: counts, violations with names, notes, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can be wrong with a run."""

    CONFLICT = "conflict"  # a second, different terminal state was attempted
    DUPLICATE = "duplicate"  # a sample learned twice along one line of checkpoints
    LOST = "lost"  # a sample that is neither open nor terminal
    FOREIGN = "foreign"  # a sample or group nobody opened
    OPEN_AFTER_FINISH = "open_after_finish"  # a finished run has an open sample
    COMMIT_GAP = "commit_gap"  # a step is missing in a lineage
    NOT_TRAINED = "not_trained"  # committed on the current line of checkpoints, but the sample says otherwise
    NOT_COMMITTED = "not_committed"  # trained, but no commit of the current line names it
    CHECKPOINT_MISMATCH = (
        "checkpoint_mismatch"  # a checkpoint has learned something else than the ledger says
    )
    SEGMENT = "segment"  # segments with a gap, beyond the window, or of a sample that waits for no tokens
    TALLY = "tally"  # the running totals of the ledger are wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that must not be."""

    kind: Kind
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageAudit:
    """One line of checkpoints."""

    lineage: str
    parent: str
    forked_at: int
    num_steps: int
    num_samples: int
    is_current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The whole audit. `terminal` is by "state/reason", `open_states` by state."""

    run_id: str
    phase: str
    step: int
    lineage: str
    num_groups: int
    num_samples: int
    terminal: Mapping[str, int]
    num_open: int
    open_states: Mapping[str, int]
    live_state_read: bool
    lineages: tuple[LineageAudit, ...]
    num_rollbacks: int
    num_checkpoints: int
    notes: tuple[str, ...]
    violations: tuple[Violation, ...]
    num_saved_tokens: int = 0
    """Of responses that are not finished, in segments; 0 when Redis was not read."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.violations

    @property
    def num_terminal(self) -> int:
        """Samples that have ended."""
        return sum(self.terminal.values())

    def count(self, kind: Kind) -> int:
        """Violations of one kind."""
        return sum(violation.kind is kind for violation in self.violations)

    def to_json(self) -> str:
        """For programs."""
        return json.dumps({**asdict(self), "ok": self.ok, "num_terminal": self.num_terminal}, indent=2)

    def to_table(self) -> str:
        """For people."""
        rows = [
            ("run", self.run_id),
            ("phase", self.phase),
            ("step", f"{self.step} of lineage {self.lineage or '-'}"),
            ("groups", str(self.num_groups)),
            ("samples", str(self.num_samples)),
            *((f"  {name}", str(count)) for name, count in sorted(self.terminal.items())),
            ("  open" + ("" if self.phase == "finished" else " (resumable)"), str(self.num_open)),
            *((f"    {name}", str(count)) for name, count in sorted(self.open_states.items())),
            *([("    saved tokens", str(self.num_saved_tokens))] if self.num_saved_tokens else []),
            *((f"lineage {line.lineage}", _describe(line)) for line in self.lineages),
            ("rolled back", f"{self.num_rollbacks} samples"),
            ("checkpoints", f"{self.num_checkpoints} compared"),
            *(("note", note) for note in self.notes),
            *((f"VIOLATION {wrong.kind}", f"{wrong.subject}: {wrong.detail}") for wrong in self.violations),
            ("result", "ok" if self.ok else f"{len(self.violations)} violations"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _describe(line: LineageAudit) -> str:
    parent = f", forked from {line.parent or 'nothing'} at step {line.forked_at}"
    mark = ", current" if line.is_current else ""
    return f"{line.num_steps} steps, {line.num_samples} samples{parent}{mark}"
