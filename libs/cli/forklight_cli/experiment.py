"""A run file ready to be run: checked against the recipe, its paths made absolute and looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile, load_run_file

PATH_KEYS = (
    ("prompts", "train"),
    ("prompts", "holdout"),
    ("sft", "demonstrations"),
    ("sft", "holdout"),
    ("model", "path"),
    ("model", "hf"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A checked run file and the deviations from the paper that it admits."""

    run_file: RunFile
    deviations: Sequence[str]


def load_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Read a run file; relative paths count from where the command is called."""
    from forklight_trainer.recipe import check_recipe

    run_file = load_run_file(path, overrides)
    deviations = check_recipe(run_file)
    return Experiment(run_file=resolve_paths(run_file, Path.cwd()), deviations=deviations)


def resolve_paths(run_file: RunFile, base: Path) -> RunFile:
    """The same run file with absolute paths; a file that is not there is an error now, not in an hour."""
    sections = {name: getattr(run_file, name) for name, _ in PATH_KEYS}
    missing = []
    for name, key in PATH_KEYS:
        value = getattr(sections[name], key)
        if value:
            path = (base / value).resolve()
            sections[name] = sections[name].model_copy(update={key: str(path)})
            if not path.exists():
                missing.append(f"{name}.{key} = {value!r}: {path} does not exist")
    if missing:
        raise ConfigError("\n".join(missing))
    return run_file.model_copy(update=sections)
