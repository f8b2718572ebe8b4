"""The answers that the padding probe judges again and again: the first that could still gain something."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from forklight_core.errors import DataLossError, UnavailableError
from forklight_reward.judge.lines import count_whole_lines
from forklight_reward.judge.prompt import Question
from forklight_reward.judge.spec import Mode

SHORTEST, LONGEST = 20, 2000
LEAST_TO_PROBE = 8


class FrozenAnswers:
    """Up to `most` a mode, no task twice. Only what was written down is probed: it outlives a restart."""

    def __init__(self, path: Path, *, most: int) -> None:
        self._path = path
        self._most = most
        self._kept: dict[Mode, list[Question]] = {}
        self._offered: dict[Mode, list[Question]] = {}

    def offer(self, question: Question, mode: Mode, score: float) -> None:
        """An answer just judged. Full marks cannot gain, and very short and very long ones tell little."""
        offered, kept = self._offered.setdefault(mode, []), self._kept.get(mode, [])
        is_wanted = score < 1.0 and SHORTEST <= len(question.candidate) <= LONGEST
        if not is_wanted or len(kept) + len(offered) >= self._most:
            return
        if all(question.task != each.task for each in [*kept, *offered]):
            offered.append(question)

    def keep(self) -> None:
        """Write down what was offered. Only of the judge that leads; blocks."""
        offered, self._offered = self._offered, {}
        lines = [
            json.dumps(
                {"mode": mode.value, "task": each.task, "reference": each.reference, "answer": each.candidate}
            )
            for mode, questions in offered.items()
            for each in questions[: self._most - len(self._kept.get(mode, []))]
        ]
        if not lines:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
        except OSError as error:
            raise UnavailableError(f"judge: {self._path} cannot be written: {error}") from error
        for mode, questions in offered.items():
            kept = self._kept.setdefault(mode, [])
            kept.extend(questions[: self._most - len(kept)])

    def load(self) -> None:
        """What was written down before; blocks. A last line that was cut off is cut away."""
        self._kept = {}
        if not self._path.exists():
            return
        count_whole_lines(self._path)
        for number, line in enumerate(self._path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
            try:
                row = json.loads(line)
                question = Question(task=row["task"], reference=row["reference"], candidate=row["answer"])
                self._kept.setdefault(Mode(row["mode"]), []).append(question)
            except (ValueError, LookupError, TypeError) as error:
                raise DataLossError(
                    f"{self._path}:{number} is no frozen answer ({error!r}): move it away"
                ) from None

    def to_probe(self) -> dict[Mode, Sequence[Question]]:
        """By mode, where there are enough."""
        return {mode: list(kept) for mode, kept in self._kept.items() if len(kept) >= LEAST_TO_PROBE}
