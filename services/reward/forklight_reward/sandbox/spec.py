"""What a program must do, as a task author writes it: mode, tests and limits."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.repo.spec import RepoTests

MAX_SOURCE_BYTES = 2**20


class Part(BaseModel):
    """Unknown keys are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Mode(StrEnum):
    """How a program is tested."""

    STDIO = "stdio"
    FUNCTION = "function"
    RUN = "run"
    """Not at all: it is run once, and what it prints is the answer."""
    REPO = "repo"
    """A patch to a tree; see sandbox/repo."""


class Language(StrEnum):
    """What a source is written in."""

    PYTHON = "python"
    CPP = "cpp"


class Limits(Part):
    """Bounds of one run: one test in mode stdio, all cases together in mode function."""

    cpu_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    """CPU seconds of all processes together."""
    wall_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds on the clock."""
    memory_mb: Annotated[int, Field(ge=16, le=16384)] = 512
    """MiB resident in all processes together."""
    pids: Annotated[int, Field(ge=1, le=512)] = 32
    """Processes and threads at once."""
    output_bytes: Annotated[int, Field(ge=1, le=64 * 2**20)] = 4 * 2**20
    """Bytes of standard output and error together, and of returned values."""
    disk_mb: Annotated[int, Field(ge=1, le=4096)] = 64
    """MiB of the private disk; also the largest file."""


class StdioTest(Part):
    """Input and the output it must give, compared by tokens between white space."""

    stdin: str = ""
    stdout: str


class FunctionCase(Part):
    """Arguments (a list, or an object of keyword arguments) and the value they must give."""

    args: list[JsonValue] | dict[str, JsonValue]
    expected: JsonValue


class FunctionTests(Part):
    """Which function to call, and how."""

    entry: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)?$")]
    """Name of a function, or Class.method of a class that is made without arguments, anew for each case."""
    cases: Annotated[list[FunctionCase], Field(min_length=1, max_length=10_000)]


class Spec(Part):
    """One program and its tests; none in mode run."""

    mode: Mode
    language: Language = Language.PYTHON
    source: str = ""
    tests: (
        Annotated[list[StdioTest], Field(min_length=1, max_length=1000)] | FunctionTests | RepoTests | None
    ) = None
    limits: Limits = Limits()

    @property
    def stdio_tests(self) -> list[StdioTest]:
        """Tests of mode stdio; none in another mode."""
        return self.tests if isinstance(self.tests, list) else []

    @property
    def function_tests(self) -> FunctionTests | None:
        """Tests of mode function; None in another mode."""
        return self.tests if isinstance(self.tests, FunctionTests) else None

    @property
    def repo_tests(self) -> RepoTests | None:
        """Tests of mode repo; None in another mode."""
        return self.tests if isinstance(self.tests, RepoTests) else None


def parse_spec(text: str, source: str | None = None) -> Spec:
    """Read a spec; `source` takes the place of its own. InvalidInputError says what is wrong."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"sandbox spec is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidInputError(
            "sandbox spec must be a JSON object with mode, language, source, tests and limits"
        )
    try:
        spec = Spec.model_validate(raw if source is None else raw | {"source": source})
    except ValidationError as error:
        items = [item for item in error.errors() if raw.get("mode") != Mode.REPO or is_of_repo(item["loc"])]
        where = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in items[:5]
        )
        raise InvalidInputError(f"sandbox spec: {where}") from error
    return check_spec(spec)


def is_of_repo(place: tuple[int | str, ...]) -> bool:
    """False for what is said of tests of the other modes."""
    return len(place) < 2 or place[0] != "tests" or RepoTests.__name__ in str(place[1])


def check_spec(spec: Spec) -> Spec:
    """Refuse what the types alone cannot."""
    given = (bool(spec.stdio_tests), spec.function_tests is not None, spec.repo_tests is not None)
    if given != (spec.mode is Mode.STDIO, spec.mode is Mode.FUNCTION, spec.mode is Mode.REPO):
        shape = {
            Mode.STDIO: "a list of {stdin, stdout}",
            Mode.FUNCTION: "{entry, cases}",
            Mode.RUN: "absent",
            Mode.REPO: "{files, hidden, patch, f2p, p2p}",
        }
        raise InvalidInputError(f"sandbox spec: tests of mode {spec.mode} must be {shape[spec.mode]}")
    if spec.language is Language.CPP and spec.mode is Mode.REPO:
        raise InvalidInputError("sandbox spec: a repository's tests are written in python")
    cases = spec.function_tests.cases if spec.function_tests else []
    if spec.language is Language.CPP and any(isinstance(case.args, dict) for case in cases):
        raise InvalidInputError(
            "sandbox spec: parameters have no names in cpp: give args of every case as a list"
        )
    if spec.mode is not Mode.REPO and "source" not in spec.model_fields_set:
        raise InvalidInputError(
            "sandbox spec: source is absent: give the program, or its text in the request"
        )
    if spec.mode is Mode.RUN and not spec.source.strip():
        raise InvalidInputError("sandbox spec: source is empty")
    if (
        spec.mode in (Mode.RUN, Mode.REPO)
        and len(spec.source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES
    ):
        raise InvalidInputError(f"sandbox spec: source is larger than {MAX_SOURCE_BYTES} bytes")
    return spec
