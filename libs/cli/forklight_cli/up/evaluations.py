"""Evaluation rounds as they complete, kept in the run folder: the buffer's status has only the last ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from forklight_cli.run_folder import RunFolder, read_json_lines

if TYPE_CHECKING:
    from forklight.v1 import buffer_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class PassAtK:
    """The share of prompts of which one of k samples passes."""

    k: int
    value: float
    low: float
    high: float
    num_prompts: int

    def __str__(self) -> str:
        return f"pass@{self.k} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One complete round on held-out prompts. Intervals are over the choice of prompts."""

    version: int
    num_samples: int
    num_failed: int
    mean_reward: float
    reward_low: float | None = None
    reward_high: float | None = None
    pass_at: tuple[PassAtK, ...] = ()

    def __str__(self) -> str:
        reward = f"{self.mean_reward:.3f}"
        if self.reward_low is not None and self.reward_high is not None:
            reward += f" [{self.reward_low:.3f}, {self.reward_high:.3f}]"
        return ", ".join([reward, *map(str, self.pass_at)])


class EvaluationLog:
    """`evaluations.jsonl` of a run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "evaluations.jsonl"
        self._rounds = {each.version: each for each in _read(read_json_lines(self._path))}

    @property
    def rounds(self) -> list[Round]:
        """Complete rounds by version."""
        return [self._rounds[version] for version in sorted(self._rounds)]

    def add(self, status: buffer_pb2.GetStatusReply) -> list[Round]:
        """Write down the rounds that are complete now and were not before."""
        fresh = [
            round_of(result)
            for result in status.evaluations
            if result.complete and result.version not in self._rounds
        ]
        if fresh:
            self._rounds.update({each.version: each for each in fresh})
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(each)) + "\n" for each in fresh)
        return fresh


def round_of(result: buffer_pb2.EvaluationResult) -> Round:
    """A round as the buffer tells it."""
    has_interval = result.HasField("reward_low") and result.HasField("reward_high")
    return Round(
        version=result.version,
        num_samples=result.num_samples,
        num_failed=result.num_failed,
        mean_reward=result.mean_reward,
        reward_low=result.reward_low if has_interval else None,
        reward_high=result.reward_high if has_interval else None,
        pass_at=tuple(
            PassAtK(k=each.k, value=each.value, low=each.low, high=each.high, num_prompts=each.num_prompts)
            for each in result.pass_at
        ),
    )


def _read(lines: Iterable[object]) -> list[Round]:
    rounds = []
    for line in lines:
        if isinstance(line, dict):
            passes = tuple(PassAtK(**each) for each in line.get("pass_at", ()))
            rounds.append(Round(**(line | {"pass_at": passes})))
    return rounds
