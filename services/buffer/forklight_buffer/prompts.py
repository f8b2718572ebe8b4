"""The prompt source: JSON lines of {id, prompt, kind, gold, spec, tools}, read and checked once, in an
endless seeded order; {domain, source, level, synthetic} are for the curriculum.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import get_args

from forklight_core.errors import InvalidInputError
from forklight_core.runfile.schema import ToolName

KNOWN = (
    "id", "prompt", "kind", "gold", "spec", "tools", "workspace", "domain", "source", "level", "synthetic",
)  # fmt: skip
KNOWN_TOOLS = get_args(ToolName)
MEND = 'every line must be like {"id": "p1", "prompt": "1+1?", "kind": "math", "gold": "2"}'


MOST_NAME_LENGTH = 150
MOST_LEVEL = 1000
MOST_WORKSPACE_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Traits:
    """What a curriculum goes by. Prompts that have the same share one object."""

    domain: str
    """The row's domain, else its source, else its kind."""
    source: str
    task: str
    """What rises by a level as a whole: the task of a puzzle, else the source, else the domain."""
    level: int | None
    synthetic: bool | None
    """None: the row does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt and what a right answer is."""

    prompt_id: str
    text: str
    kind: str
    gold: str
    spec_json: str
    tools: tuple[str, ...] | None = None
    """Those of the run's tools that its samples may call; None: all of them."""
    workspace_json: str = field(default="", repr=False)
    """Files that the tool `shell` begins with: a JSON object of path to text; empty: it has no such tool."""
    traits: Traits = field(repr=False)


class PromptBook:
    """Random access by position: position N is the first prompt of the second epoch of N prompts."""

    def __init__(self, prompts: tuple[Prompt, ...], *, seed: int, shuffle: bool) -> None:
        self._prompts = prompts
        self._places = {prompt.prompt_id: place for place, prompt in enumerate(prompts)}
        self._seed = seed
        self._shuffle = shuffle
        self._order = lru_cache(maxsize=2)(self._make_order)

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def fingerprint(self) -> str:
        """Of all prompts, in the order of the file."""
        digest = hashlib.blake2b(digest_size=16)
        for prompt in self._prompts:
            digest.update((repr(prompt) + prompt.workspace_json).encode())
            if prompt.traits != plain_traits(prompt.kind):
                digest.update(repr(prompt.traits).encode())
        return digest.hexdigest()

    def at(self, position: int) -> Prompt:
        """The prompt at a position of the endless order."""
        epoch, place = divmod(position, len(self._prompts))
        return self._prompts[self._order(epoch)[place]]

    def by_id(self, prompt_id: str) -> Prompt | None:
        """A prompt by its id."""
        place = self._places.get(prompt_id)
        return None if place is None else self._prompts[place]

    @property
    def prompts(self) -> Sequence[Prompt]:
        """All of them, in the order of the file."""
        return self._prompts

    def place_of(self, prompt_id: str) -> int | None:
        """Where a prompt is in the file."""
        return self._places.get(prompt_id)

    def _make_order(self, epoch: int) -> list[int]:
        """Sorted by a keyed hash of the id: the same on every machine and version of Python."""
        places = range(len(self._prompts))
        if not self._shuffle:
            return list(places)
        key = hashlib.blake2b(f"{self._seed}/{epoch}".encode(), digest_size=32).digest()

        def rank(place: int) -> bytes:
            name = self._prompts[place].prompt_id.encode()
            return hashlib.blake2b(name, digest_size=16, key=key).digest()

        return sorted(places, key=rank)


def read_prompts(path: Path, *, seed: int, shuffle: bool) -> PromptBook:
    """Read a file of prompts; InvalidInputError names file and line of the first problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            f"{path}: prompts cannot be read: {error.strerror}; check prompts.train and prompts.holdout"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path}: prompts are not UTF-8 (byte {error.start}); save the file as UTF-8"
        ) from error
    prompts = tuple(_parse_lines(path, text))
    if not prompts:
        raise InvalidInputError(f"{path}: there is no prompt in the file; {MEND}")
    return PromptBook(prompts, seed=seed, shuffle=shuffle)


def _parse_lines(path: Path, text: str) -> Iterator[Prompt]:
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        prompt = _parse_line(line, f"{path}:{number}")
        if prompt.prompt_id in seen:
            raise InvalidInputError(
                f"{path}:{number}: id {prompt.prompt_id!r} is taken by line {seen[prompt.prompt_id]}; "
                "give every prompt an id of its own"
            )
        seen[prompt.prompt_id] = number
        yield prompt


def _parse_line(line: str, where: str) -> Prompt:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{where}: not JSON ({error.msg} at column {error.colno}); {MEND}") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{where}: a {type(found).__name__}, not an object; {MEND}")
    unknown = sorted(set(found) - set(KNOWN))
    if unknown:
        raise InvalidInputError(f"{where}: unknown key {unknown[0]!r}; allowed are {', '.join(KNOWN)}")
    spec = found.get("spec", {})
    if not isinstance(spec, dict):
        raise InvalidInputError(f"{where}: spec is a {type(spec).__name__}; it must be a JSON object")
    kind = sys.intern(_text(found, "kind", where))
    return Prompt(
        prompt_id=_text(found, "id", where),
        text=_text(found, "prompt", where),
        kind=kind,
        gold=_text(found, "gold", where, may_lack=True),
        spec_json=json.dumps(spec, sort_keys=True) if spec else "",
        tools=_tools(found, where),
        workspace_json=_workspace(found, where),
        traits=_traits(found, spec, kind, where),
    )


@cache
def plain_traits(kind: str) -> Traits:
    """Of a row that says nothing a curriculum could go by."""
    return _shared(Traits(domain=kind, source="", task=kind, level=None, synthetic=None))


@cache
def _shared(traits: Traits) -> Traits:
    return traits


def _traits(found: dict[str, object], spec: dict[str, object], kind: str, where: str) -> Traits:
    """A puzzle's specification says its task and level, unless the row does."""
    source = _name(found, "source", where)
    domain = _name(found, "domain", where) or source or kind
    is_puzzle = kind == "logic"
    task = spec.get("task") if is_puzzle else None
    level = found.get("level", spec.get("level") if is_puzzle else None)
    if level is not None and (type(level) is not int or not 0 <= level <= MOST_LEVEL):
        raise InvalidInputError(f"{where}: level is {level!r}; it must be a number from 0 to {MOST_LEVEL}")
    synthetic = found.get("synthetic")
    if synthetic is not None and not isinstance(synthetic, bool):
        raise InvalidInputError(f"{where}: synthetic is {synthetic!r}; it must be true or false")
    name = task if isinstance(task, str) and task else source or domain
    return _shared(Traits(domain, source, name, level, synthetic))


def _name(found: dict[str, object], name: str, where: str) -> str:
    value = found.get(name)
    if value is None:
        return ""
    is_name = isinstance(value, str) and value.strip() and value.isprintable()
    if not isinstance(value, str) or not is_name or len(value) > MOST_NAME_LENGTH:
        raise InvalidInputError(
            f"{where}: {name} is {str(value)[:80]!r}; it must be a name of 1 to {MOST_NAME_LENGTH} "
            "printable characters"
        )
    return value


def _tools(found: dict[str, object], where: str) -> tuple[str, ...] | None:
    names = found.get("tools")
    if names is None:
        return None
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise InvalidInputError(f'{where}: tools is {names!r}; it must be a list of names like ["python"]')
    unknown = [name for name in names if name not in KNOWN_TOOLS]
    if unknown:
        raise InvalidInputError(f"{where}: unknown tool {unknown[0]!r}; known are {', '.join(KNOWN_TOOLS)}")
    return tuple(names)


def _workspace(found: dict[str, object], where: str) -> str:
    files = found.get("workspace")
    if files is None:
        return ""
    if not isinstance(files, dict) or any(not isinstance(text, str) for text in files.values()):
        raise InvalidInputError(f"{where}: workspace must be an object of path to text")
    text = json.dumps(files, sort_keys=True)
    if len(text) > MOST_WORKSPACE_BYTES:
        raise InvalidInputError(f"{where}: workspace is larger than {MOST_WORKSPACE_BYTES} bytes")
    return text


def _text(found: dict[str, object], name: str, where: str, *, may_lack: bool = False) -> str:
    value = found.get(name, "" if may_lack else None)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and name in ("id", "gold"):
        value = str(value)
    if not isinstance(value, str):
        problem = "is missing" if value is None else f"is {value!r}, not text"
        raise InvalidInputError(f"{where}: {name} {problem}; {MEND}")
    if not value.strip() and not may_lack:
        raise InvalidInputError(f"{where}: {name} is empty; {MEND}")
    return value
