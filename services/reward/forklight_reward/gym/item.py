"""Items of reasoning-gym: made from a seed, written as a specification, read back strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

from forklight_core.errors import InvalidInputError
from forklight_reward.gym.catalogue import RELEASE, SOLVED, check_task, package_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
MODE = "gym"
MOST_SPEC_BYTES = 2**20
LARGEST_SEED = 2**31 - 1
KEYS = frozenset({"task", "seed", "release", "entry"})
_INSTRUCTION = "Give your final answer, and nothing else, in \\boxed{...}."


@dataclass(frozen=True, slots=True, kw_only=True)
class GymItem:
    """One question with all that its scorer needs."""

    task: str
    seed: int
    entry: Mapping[str, Json]

    @property
    def prompt(self) -> str:
        """For the policy."""
        return f"{self.entry['question']}\n\n{_INSTRUCTION}"

    def spec(self) -> dict[str, Json]:
        """What goes under `spec` in a prompt file. It holds the answer and never leaves the rewards' side."""
        return {"task": self.task, "seed": self.seed, "release": RELEASE, "entry": self.entry}


def make_item(task: str, seed: int) -> GymItem:
    """The item of a seed, once its own answer has been scored as right from what was written down."""
    check_task(task)
    if not 0 <= seed <= LARGEST_SEED:
        raise InvalidInputError(f"gym seed {seed} is not from 0 to {LARGEST_SEED}")
    package_folder()
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise InvalidInputError(f"reasoning-gym {RELEASE} has no task {task!r}")
    dataset = reasoning_gym.create_dataset(task, size=1, seed=seed)
    try:
        entry = cast("Mapping[str, Json]", json.loads(json.dumps(dataset[0], allow_nan=False)))
        answer = entry["answer"]
        is_sound = isinstance(answer, str) and dataset.score_answer(answer, entry) >= SOLVED
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the gym task {task!r} makes items that no file can hold: {str(error)[:200]}"
        ) from error
    if not is_sound:
        raise InvalidInputError(
            f"the gym task {task!r} does not score its own answer as right once it was written to a file"
        )
    return GymItem(task=task, seed=seed, entry=entry)


def is_gym(spec_json: str) -> bool:
    """Whether a sandbox specification is one of ours; what is wrong with it `read_item` says."""
    return spec_json.startswith(f'{{"mode": "{MODE}"')


def wrap_spec(spec_json: str) -> str:
    """A specification as it travels to a sandbox."""
    return f'{{"mode": "{MODE}", "item": {spec_json or "null"}}}'


def read_item(spec_json: str) -> GymItem:
    """The item of a wrapped specification. InvalidInputError says what is wrong."""
    if len(spec_json.encode("utf-8", "replace")) > MOST_SPEC_BYTES:
        _refuse(f"is larger than {MOST_SPEC_BYTES} bytes")
    try:
        found = json.loads(spec_json)["item"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        _refuse(f"is not JSON: {str(error)[:200]}")
    if not isinstance(found, dict) or set(found) != KEYS:
        _refuse(f"is not an object of {', '.join(sorted(KEYS))}")
    task, seed, release, entry = (found[key] for key in ("task", "seed", "release", "entry"))
    if not isinstance(task, str) or type(seed) is not int or not isinstance(entry, dict):
        _refuse("has a task that is not text, a seed that is not a number, or an entry that is not an object")
    if release != RELEASE:
        _refuse(f"was made with release {str(release)[:40]!r}, not with {RELEASE}")
    if not isinstance(entry.get("question"), str) or not isinstance(entry.get("answer"), str):
        _refuse("has an entry without question and answer")
    return GymItem(task=check_task(task), seed=seed, entry=entry)


def _refuse(problem: str) -> NoReturn:
    raise InvalidInputError(f"the gym specification {problem}; write it with `forklight logic gym`")
