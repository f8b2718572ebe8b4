"""The program that scores one answer inside a jail: the gym's own scorer on an item and a text.

Standard input is one line of JSON. The first line printed says that the gym is there, the last one the score.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import types

PLACE = "/gym"
DRAWING = frozenset(["matplotlib", "mpl_toolkits"])


class Absent(types.ModuleType):
    """Stands for a module of drawing, which takes seconds to load and which no scorer needs."""

    __path__: tuple[str, ...] = ()  # type: ignore[assignment]

    def __getattr__(self, name: str) -> types.ModuleType:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(name)


class Absence(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds such a module for whatever is part of the drawing packages."""

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        is_drawing = name.partition(".")[0] in DRAWING
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_drawing else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """It is empty."""


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    sys.path.insert(0, PLACE)
    sys.meta_path.insert(0, Absence())
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(asked["task"], size=1, seed=asked["seed"])
    sys.stdout.write(json.dumps({"ready": asked["nonce"]}) + "\n")
    sys.stdout.flush()
    score = float(dataset.score_answer(asked["answer"], asked["entry"]))  # what it raises is no right answer
    sys.stdout.write("\n" + json.dumps({"score": score, "nonce": asked["nonce"]}) + "\n")


if __name__ == "__main__":
    main()
