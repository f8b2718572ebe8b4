"""Dockerfiles as lists of instructions and stages, for the tests beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.docker.build import IMAGES

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction: its word in capitals, and the rest in one line."""

    word: str
    rest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """One image's file."""

    image: str
    path: Path
    stages: tuple[tuple[Instruction, ...], ...]
    """What follows each FROM, with it; what comes before the first FROM is the stage 0."""

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """All of them, in order."""
        return tuple(instruction for stage in self.stages for instruction in stage)

    @property
    def final(self) -> tuple[Instruction, ...]:
        """The stage that becomes the image."""
        return self.stages[-1]

    @property
    def runtime_text(self) -> str:
        """What the last stage runs and sets, as one text."""
        return "\n".join(f"{each.word} {each.rest}" for each in self.final)

    def last(self, word: str) -> str:
        """The rest of the last such instruction of the final stage, empty without one."""
        return next((each.rest for each in reversed(self.final) if each.word == word), "")

    def rooms(self) -> dict[str, set[str]]:
        """Folders that are installed, with their extras."""
        given = next(each.rest for each in self.instructions if each.rest.startswith("ROOMS="))
        found = re.findall(r"([\w/]+)(?:\[([\w,]+)\])?", given.partition("=")[2].strip('"'))
        return {folder: set(filter(None, extras.split(","))) for folder, extras in found}

    def copies(self) -> Iterator[str]:
        """Sources that come from the build context."""
        for each in self.instructions:
            if each.word == "COPY" and not each.rest.startswith("--from="):
                yield from each.rest.split()[:-1]


def parse(image: str, path: Path) -> Dockerfile:
    """Split at FROM, with continued lines joined and comments left out."""
    stages: list[list[Instruction]] = [[]]
    lines = (
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    )
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word.upper() == "FROM":
            stages.append([])
        stages[-1].append(Instruction(word=word.upper(), rest=" ".join(rest.split())))
    return Dockerfile(image=image, path=path, stages=tuple(tuple(stage) for stage in stages))


def all_dockerfiles() -> list[Dockerfile]:
    """Those that `make images` builds."""
    return [parse(image, ROOT / path) for image, path in IMAGES.items()]
