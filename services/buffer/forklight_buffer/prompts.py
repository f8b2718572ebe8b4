"""The prompt source: JSON lines of {id, prompt, kind, gold, spec, tools}, read and checked once, in an
endless seeded order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

from forklight_core.errors import InvalidInputError
from forklight_core.runfile.schema import ToolName

KNOWN = ("id", "prompt", "kind", "gold", "spec", "tools")
KNOWN_TOOLS = get_args(ToolName)
MEND = 'every line must be like {"id": "p1", "prompt": "1+1?", "kind": "math", "gold": "2"}'


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


class PromptBook:
    """Random access by position: position N is the first prompt of the second epoch of N prompts."""

    def __init__(self, prompts: tuple[Prompt, ...], *, seed: int, shuffle: bool) -> None:
        self._prompts = prompts
        self._by_id = {prompt.prompt_id: prompt for prompt in prompts}
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
            digest.update(repr(prompt).encode())
        return digest.hexdigest()

    def at(self, position: int) -> Prompt:
        """The prompt at a position of the endless order."""
        epoch, place = divmod(position, len(self._prompts))
        return self._prompts[self._order(epoch)[place]]

    def by_id(self, prompt_id: str) -> Prompt | None:
        """A prompt by its id."""
        return self._by_id.get(prompt_id)

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
    return Prompt(
        prompt_id=_text(found, "id", where),
        text=_text(found, "prompt", where),
        kind=_text(found, "kind", where),
        gold=_text(found, "gold", where, may_lack=True),
        spec_json=json.dumps(spec, sort_keys=True) if spec else "",
        tools=_tools(found, where),
    )


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
