"""Which tasks of reasoning-gym are taken, which are refused and why, and which run the answer as a program.

What is said here holds for one release; another one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from forklight_core.errors import InvalidInputError, UnavailableError

PACKAGE, RELEASE = "reasoning-gym", "0.1.25"
EXTRA = "pip install 'forklight-reward[logic-rg]'"
SOLVED = 0.999
"""A score below is not a right answer: many tasks pay a little for any text."""

EXECUTING = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)
"""Their scorers evaluate the answer as Python."""

REFUSED: Mapping[str, str] = {
    "composite": "it is a mixture of the others",
    "game_of_life_halting": "it pays the whole score for any text",
    "knight_swap": "the same seed does not give the same item",
    "list_functions": "the same seed does not give the same item",
    "boxnet": "it has no answer to check its items with",
    "graph_color": "it has no answer to check its items with",
    "propositional_logic": "it has no answer to check its items with",
    "rubiks_cube": "it has no answer to check its items with",
    "rush_hour": "it has no answer to check its items with",
}


@lru_cache(maxsize=1)
def package_folder() -> Path:
    """Where the package and what it needs are installed. UnavailableError says what is missing."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        raise UnavailableError(
            f"{PACKAGE} is not installed, so tasks of kind 'gym' are neither made nor scored: {EXTRA}"
        ) from None
    if found != RELEASE:
        raise UnavailableError(
            f"{PACKAGE} {found} is installed; its tasks were examined in release {RELEASE} only: {EXTRA}"
        )
    spec = find_spec("reasoning_gym")
    if spec is None or spec.origin is None:
        raise UnavailableError(f"{PACKAGE} is installed without its modules; install it again: {EXTRA}")
    return Path(spec.origin).resolve().parent.parent


def check_task(name: str) -> str:
    """The name of a task that is taken; InvalidInputError says why another one is not."""
    if reason := REFUSED.get(name):
        raise InvalidInputError(f"the gym task {name!r} is refused: {reason}")
    if not name.isidentifier() or len(name) > 80:
        raise InvalidInputError(f"{name[:80]!r} is no name of a gym task")
    return name
