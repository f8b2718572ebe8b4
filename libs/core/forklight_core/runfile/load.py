"""Reads a run file: TOML, then `--set` overrides, then types, bounds and rules. Problems come together."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from forklight_core.errors import ConfigError, NotFoundError
from forklight_core.runfile.locate import key_lines, leaf_paths
from forklight_core.runfile.rules import find_contradictions
from forklight_core.runfile.schema import RunFile

DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRunFile:
    """A run file and where each value came from."""

    run_file: RunFile
    sources: Mapping[str, str]
    """By dotted key: "default", "FILE:LINE" or "--set KEY=VALUE"."""


def load_run_file(path: Path | str, overrides: Sequence[str] = ()) -> RunFile:
    """The run file with overrides such as "trainer.steps=5"; ConfigError lists everything that is wrong."""
    return load_with_sources(path, overrides).run_file


def load_with_sources(path: Path | str, overrides: Sequence[str] = ()) -> LoadedRunFile:
    """The same, with the provenance of every value."""
    path = Path(path)
    text = _read(path)
    try:
        table: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    given = {".".join(keys): f"{path}:{line}" for keys, line in key_lines(text).items()}
    for override in overrides:
        key, value = parse_override(override)
        _put(table, key.split("."), value, override)
        given[key] = f"--set {override}"
    run_file = _validate(table, given, path)
    sources = {key: given.get(key, DEFAULT) for key in known_keys()}
    return LoadedRunFile(run_file=run_file, sources=sources)


def parse_override(override: str) -> tuple[str, object]:
    """Key and value of "a.b=c". The value is read as TOML where it is TOML, else taken as text."""
    key, mark, value = override.partition("=")
    key, value = key.strip(), value.strip()
    if not mark or not all(key.split(".")):
        raise ConfigError(f"--set {override!r} is not understood: write --set section.key=value")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def known_keys() -> list[str]:
    """Every dotted key a run file may have, in order."""
    return [".".join(path) for path in leaf_paths(_field_tree(RunFile))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"no run file at {path}: check the path (from {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _put(table: dict[str, object], keys: Sequence[str], value: object, override: str) -> None:
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: {key} is a value, not a section")
        table = inner
    table[keys[-1]] = value


def _validate(table: Mapping[str, object], given: Mapping[str, str], path: Path) -> RunFile:
    try:
        run_file = RunFile.model_validate(table)
    except ValidationError as error:
        problems = [_explain(detail, given) for detail in error.errors(include_url=False)]
    else:
        problems = list(find_contradictions(run_file))
        if not problems:
            return run_file
    if len(problems) == 1:
        raise ConfigError(f"{path}: {problems[0]}")
    raise ConfigError("\n  - ".join([f"{path} has {len(problems)} problems:", *problems]))


def _explain(detail: ErrorDetails, given: Mapping[str, str]) -> str:
    """One problem in words: which key, where it was given, what is wrong, what was meant."""
    key = ".".join(str(part) for part in detail["loc"])
    where = _where(key, given)
    if detail["type"] == "extra_forbidden":
        nearest = nearest_key(key)
        return f"unknown key {key}{where}" + (f"; did you mean {nearest}?" if nearest else "")
    return f"{key}{where}: {detail['msg'].removeprefix('Value error, ')} (given: {_shown(detail['input'])})"


def _shown(value: object) -> str:
    """A value as it is written, without the user and password of an address."""
    return re.sub(r"(://)[^/\s'\"]*@", r"\1***@", repr(value))


def _where(key: str, given: Mapping[str, str]) -> str:
    """Position of a key, or of the nearest table around it."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        source = given.get(".".join(parts[:end]))
        if source:
            return f" in {source}" if source.startswith("--set") else f" at {source}"
    return ""


def nearest_key(key: str) -> str:
    """The known key or section most like an unknown one; empty when nothing is near."""
    keys = known_keys()
    if any(part.isdigit() for part in key.split(".")):
        return _nearest_of_entry(key.split("."))
    if "." not in key:
        sections = list(dict.fromkeys(known.partition(".")[0] for known in keys))
        near = difflib.get_close_matches(key, sections, n=1)
        return near[0] if near else next((known for known in keys if known.endswith(f".{key}")), "")
    section, _, leaf = key.partition(".")
    elsewhere = [known for known in keys if known.endswith(f".{leaf}")]
    same_section = [known for known in keys if known.startswith(f"{section}.")]
    near = elsewhere or difflib.get_close_matches(key, same_section, n=1, cutoff=0.75)
    candidates = near or difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    return candidates[0] if candidates else ""


def _nearest_of_entry(parts: Sequence[str]) -> str:
    """The same for a key of an entry of an array of tables, such as recipe.schedule.0.eps_high."""
    model: object = RunFile
    for part in parts[:-1]:
        if part.isdigit():
            model = next(iter(get_args(model)), None)
        elif isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    near = difflib.get_close_matches(parts[-1], model.model_fields, n=1, cutoff=0.75)
    return ".".join([*parts[:-1], *near]) if near else ""


def _field_tree(model: type[BaseModel]) -> dict[str, object]:
    """Nested names of a model's fields."""
    return dict(_field_items(model))


def _field_items(model: type[BaseModel]) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        yield name, _field_tree(kind) if nested and isinstance(kind, type) else None
