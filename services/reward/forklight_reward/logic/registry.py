"""All logic tasks by name: draws puzzles from a seed, and checks answers against a written specification."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from forklight_core.errors import InvalidInputError
from forklight_reward.logic.arithmetic import ARITHMETIC_TASKS
from forklight_reward.logic.deduction import DEDUCTION_TASKS
from forklight_reward.logic.formulas import FORMULA_TASKS
from forklight_reward.logic.graphs import GRAPH_TASKS
from forklight_reward.logic.grids import GRID_TASKS
from forklight_reward.logic.marks import MARK_TASKS
from forklight_reward.logic.moves import MOVE_TASKS
from forklight_reward.logic.numerals import NUMERAL_TASKS
from forklight_reward.logic.placements import PLACEMENT_TASKS
from forklight_reward.logic.planning import PLANNING_TASKS
from forklight_reward.logic.rewriting import REWRITING_TASKS
from forklight_reward.logic.routes import ROUTE_TASKS
from forklight_reward.logic.sums import SUM_TASKS
from forklight_reward.logic.task import LEVELS, MOST_ANSWER_CHARACTERS, Json, LogicTask, Puzzle, Spec
from forklight_reward.logic.times import TIME_TASKS
from forklight_reward.logic.words import WORD_TASKS

LOGIC_RULES_VERSION = "1"
"""Changes whenever any task accepts another answer than before."""
MOST_SPEC_BYTES = 65536
LARGEST_SEED = 2**63 - 1
KEYS = frozenset({"task", "level", "seed", "spec"})
BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading a specification of another shape raises. A verifier raises none of them for any answer."""

ALL_TASKS: tuple[LogicTask, ...] = (
    *ARITHMETIC_TASKS,
    *NUMERAL_TASKS,
    *SUM_TASKS,
    *GRID_TASKS,
    *MARK_TASKS,
    *PLACEMENT_TASKS,
    *ROUTE_TASKS,
    *MOVE_TASKS,
    *WORD_TASKS,
    *REWRITING_TASKS,
    *DEDUCTION_TASKS,
    *FORMULA_TASKS,
    *PLANNING_TASKS,
    *TIME_TASKS,
    *GRAPH_TASKS,
)
TASKS: Mapping[str, LogicTask] = {task.name: task for task in ALL_TASKS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A specification as it travels."""

    task: LogicTask
    level: int
    seed: int
    spec: Spec


def rules_version() -> str:
    """Name and version of the rules, for verdicts."""
    return f"logic-rules/{LOGIC_RULES_VERSION}"


def task_of(name: str) -> LogicTask:
    """The task of a name."""
    task = TASKS.get(name)
    if task is None:
        raise InvalidInputError(f"unknown logic task {name[:80]!r}: `forklight logic list` names all of them")
    return task


def make_puzzle(name: str, seed: int, level: int) -> Puzzle:
    """The same puzzle on every machine for the same name, seed and level."""
    task = task_of(name)
    if level not in LEVELS:
        raise InvalidInputError(f"logic level {level} is not one of {LEVELS.start} to {LEVELS.stop - 1}")
    if not 0 <= seed <= LARGEST_SEED:
        raise InvalidInputError(f"logic seed {seed} is not from 0 to {LARGEST_SEED}")
    digest = hashlib.blake2b(f"{name}/{seed}/{level}".encode(), digest_size=16).digest()
    return task.generate(random.Random(int.from_bytes(digest, "big")), level)


def spec_record(name: str, seed: int, level: int, puzzle: Puzzle) -> Spec:
    """What goes under `spec` in a prompt file."""
    return {"task": name, "level": level, "seed": seed, "spec": puzzle.spec}


def write_spec(name: str, seed: int, level: int, puzzle: Puzzle) -> str:
    """The specification as it travels: `check` reads it."""
    return json.dumps(spec_record(name, seed, level, puzzle), sort_keys=True)


def check(spec_json: str, answer: str) -> bool:
    """Whether an answer is right. InvalidInputError when the specification cannot be read."""
    written = read_spec(spec_json)
    if len(answer) > MOST_ANSWER_CHARACTERS:
        return False
    try:
        return written.task.verify(written.spec, answer)
    except BROKEN as error:
        raise InvalidInputError(
            f"logic specification of {written.task.name}: {type(error).__name__}: {str(error)[:200]}; "
            "write it with `forklight logic generate`"
        ) from error


def read_spec(spec_json: str) -> Written:
    """Parse and look at every field, the task's own ones by name and type."""
    if len(spec_json.encode("utf-8", "replace")) > MOST_SPEC_BYTES:
        _refuse(f"is larger than {MOST_SPEC_BYTES} bytes")
    try:
        found = json.loads(spec_json, parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        _refuse(f"is not JSON without fractions: {str(error)[:200]}")
    if not isinstance(found, dict) or set(found) != KEYS:
        _refuse(f"is not an object of {', '.join(sorted(KEYS))}")
    level, seed, spec = found["level"], found["seed"], found["spec"]
    if type(level) is not int or level not in LEVELS or type(seed) is not int:
        _refuse(f"has level {str(level)[:40]!r} and seed {str(seed)[:40]!r}; both are integers")
    if not isinstance(found["task"], str) or not isinstance(spec, dict):
        _refuse("has a task that is not text, or a spec that is not an object")
    task = task_of(found["task"])
    if (kinds := _kinds_of(spec)) != _shape_of(task.name):
        _refuse(
            f"has other fields than {task.name}: {', '.join(f'{key}: {kind}' for key, kind in kinds)}"[:300]
        )
    return Written(task=task, level=level, seed=seed, spec=spec)


@lru_cache(maxsize=128)
def _shape_of(name: str) -> tuple[tuple[str, str], ...]:
    """Names and types of a task's fields: the same for all of its puzzles."""
    spec = json.loads(json.dumps(make_puzzle(name, 0, LEVELS.start).spec))
    return _kinds_of(spec)


def _kinds_of(spec: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, type(value).__name__) for key, value in spec.items()))


def _no_float(number: str) -> NoReturn:
    raise ValueError(f"the number {number[:40]}")


def _refuse(problem: str) -> NoReturn:
    raise InvalidInputError(f"the logic specification {problem}; write it with `forklight logic generate`")
