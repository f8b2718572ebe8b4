"""The last words of a run: what was learned, what the ledger says, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forklight_cli.run_folder import RunFolder
from forklight_cli.up.evaluations import Round
from forklight_core.runfile import RunFile

if TYPE_CHECKING:
    from forklight.v1 import buffer_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: RunFolder
    run_file: RunFile
    rounds: Sequence[Round]
    status: buffer_pb2.GetStatusReply | None
    wall_s: float
    stopped_because: str

    @property
    def is_finished(self) -> bool:
        """The goal is reached or the last step done."""
        from forklight.v1 import buffer_pb2

        return self.status is not None and self.status.phase == buffer_pb2.RUN_PHASE_FINISHED

    @property
    def goal_reached(self) -> bool | None:
        """Whether a round reached the goal; None when the run has no goal."""
        goal = self.run_file.evaluation.goal_reward
        if goal is None:
            return None
        return any(each.mean_reward >= goal for each in self.rounds)


def summarize(outcome: Outcome) -> str:
    """The summary, one fact a line."""
    path = outcome.folder.path
    lines = ["", f"{'finished' if outcome.is_finished else 'stopped'}: {outcome.stopped_because}"]
    lines += [f"  learned    {_learned(outcome)}", f"  time       {outcome.wall_s:.0f} s"]
    if outcome.status is not None:
        lines.append(f"  steps      {outcome.status.step}, policy version {outcome.status.version}")
        lines.append(f"  samples    {_counts(outcome.status)}")
    lines.append(f"  run folder {path}")
    lines.append(f"  audit      forklight audit {path}")
    lines.append(f"  resume     forklight resume {path}")
    models = [*sorted(path.glob("weights/v*")), *path.glob("final")]
    if models:
        lines.append(f"  generate   forklight generate --model {models[-1]} --prompt TEXT")
    return "\n".join(lines)


def _learned(outcome: Outcome) -> str:
    if not outcome.rounds:
        return "no complete evaluation round"
    first, last = outcome.rounds[0], outcome.rounds[-1]
    text = f"held-out reward {first} (version {first.version})"
    if last is not first:
        text += f" -> {last} (version {last.version})"
    goal = outcome.run_file.evaluation.goal_reward
    if goal is not None:
        text += f"; goal {goal:g} {'reached' if outcome.goal_reached else 'not reached'}"
    return text


def _counts(status: buffer_pb2.GetStatusReply) -> str:
    from forklight.v1 import types_pb2

    texts = []
    for count in status.counts:
        state = types_pb2.SampleState.Name(count.state).removeprefix("SAMPLE_STATE_").lower()
        texts.append(f"{count.num_samples} {state}" + (f" ({count.reason})" if count.reason else ""))
    return ", ".join(texts) or "none"
