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
class Round:
    """One complete round on held-out prompts."""

    version: int
    num_samples: int
    num_failed: int
    mean_reward: float


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
            Round(
                version=result.version,
                num_samples=result.num_samples,
                num_failed=result.num_failed,
                mean_reward=result.mean_reward,
            )
            for result in status.evaluations
            if result.complete and result.version not in self._rounds
        ]
        if fresh:
            self._rounds.update({each.version: each for each in fresh})
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(each)) + "\n" for each in fresh)
        return fresh


def _read(lines: Iterable[object]) -> list[Round]:
    return [Round(**line) for line in lines if isinstance(line, dict)]
