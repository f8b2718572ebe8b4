"""A recorded run through other settings: what the window and the alarms would have said, step by step.

The recording does not react: after the first move of the replay that the run did not make, lengths are still
those of the run's own window, and a roll back that is asked for does not happen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import InvalidInputError, NotFoundError
from forklight_core.runfile import RunFile
from forklight_trainer.steering.figures import StepFigures, read_figures
from forklight_trainer.steering.steering import Observation, Steering


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedStep:
    """One step of the recording."""

    figures: StepFigures
    observation: Observation


def replay(path: Path, run_file: RunFile) -> Iterator[ReplayedStep]:
    """Every step of a steps.jsonl, in order. A torn last line is left out, as a resumed run does."""
    steering, last = Steering(run_file), 0
    for number, line in _complete_lines(path):
        figures = _read_line(line, f"{path}:{number}")
        if figures.step <= last:
            raise InvalidInputError(
                f"{path}:{number} is step {figures.step} after step {last}: steps must rise"
            )
        last = figures.step
        yield ReplayedStep(figures=figures, observation=steering.observe(figures))


def _complete_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"no file {path}: give the steps.jsonl of a run folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from None
    lines = text.split("\n")[:-1]  # what follows the last line break is torn, or nothing
    yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _read_line(line: str, where: str) -> StepFigures:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InvalidInputError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InvalidInputError(f"{where} is a {type(record).__name__}, expected the object of a step")
    return read_figures(record)
