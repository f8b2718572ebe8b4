"""Spec files, one behind the other: a line of JSON each, whatever becomes of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import ForklightError, InvalidInputError, UnavailableError
from forklight_reward.sandbox.jail_runner import open_jail_runner
from forklight_reward.sandbox.result import masked_json
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import Spec, parse_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecLine:
    """What came of one spec file: a line of JSON, and the error where there is no verdict."""

    text: str
    error: ForklightError | None = None


def run_spec_files(
    paths: Sequence[str], *, open_sandbox: Callable[[], Runner] = open_jail_runner
) -> Iterator[SpecLine]:
    """Execute each spec file; a line each, in order, whatever becomes of another. For the command line."""
    with ExitStack() as closing:
        runner: Runner | None = None
        for path in paths:
            try:
                spec = read_spec_file(path)
                if runner is None:
                    runner = open_sandbox()
                    closing.callback(runner.close)
                yield SpecLine(text=execute(spec, runner).to_json())
            except ForklightError as error:
                yield SpecLine(text=masked_json(str(error)), error=error)
            except (OSError, ValueError, RecursionError, MemoryError) as error:
                failure = UnavailableError(f"sandbox spec {path} could not be run: {error!r}"[:1000])
                yield SpecLine(text=masked_json(str(failure)), error=failure)


def read_spec_file(path: str) -> Spec:
    """The spec in a file. InvalidInputError says what is wrong with it."""
    try:
        return parse_spec(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"sandbox spec {path} cannot be read: {error}") from error
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error
