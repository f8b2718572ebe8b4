"""`forklight judge`: choose references, check a model as a judge, allow one that was switched off."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.output import print_json_line
from forklight_cli.exits import ExitCode

if TYPE_CHECKING:
    from forklight_reward.judge.canaries import CanaryResult
    from forklight_reward.judge.engines import Judges
    from forklight_reward.judge.padding import PaddingReport

KEY = "FORKLIGHT_JUDGE_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Whom to ask."""

    endpoints: tuple[str, ...]
    model: str
    concurrency: int

    def open(self, *, mode: str, length_neutral: bool = False) -> AbstractAsyncContextManager[Judges]:
        """Engines as a run file with this section has them."""
        from pydantic import ValidationError

        from forklight_core.errors import InvalidInputError
        from forklight_core.runfile.schema import JudgeSection
        from forklight_reward.judge.engines import open_judges

        fields = {
            "kind": "openai",
            "endpoints": self.endpoints,
            "model": self.model,
            "concurrency": self.concurrency,
            "mode": mode,
            "length_neutral": length_neutral,
        }
        try:
            section = JudgeSection.model_validate(fields)
        except ValidationError as error:
            raise InvalidInputError(f"the judge cannot be asked like this: {error}") from None
        return open_judges(section, api_key=os.environ.get(KEY, ""))


def door_options(command: Callable[..., object]) -> Callable[..., object]:
    """Options that become a Door."""

    def with_door(endpoints: tuple[str, ...], model: str, concurrency: int, **others: object) -> object:
        return command(door=Door(endpoints=endpoints, model=model, concurrency=concurrency), **others)

    with_door.__doc__ = command.__doc__
    with_door.__name__ = command.__name__
    made: Callable[..., object] = with_door
    for option in (
        click.option(
            "--concurrency", type=click.IntRange(1, 1024), default=8, show_default=True, help="Calls."
        ),
        click.option("--model", default="", help="Name of the model; empty: the endpoint's only one."),
        click.option(
            "--endpoint", "endpoints", multiple=True, required=True, help="Base address, without /v1."
        ),
    ):
        made = option(made)
    return made


@click.group(epilog=f"The key of the endpoint is read from {KEY}.")
def judge() -> None:
    """Choose references, check a model as a judge, allow one that was switched off."""


@judge.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON lines for `prompts.train`.")
@click.option("--keep", type=click.IntRange(0, 16), default=4, show_default=True, help="Further references.")
@click.option("--timeout-s", type=float, default=120.0, show_default=True, help="Of one comparison.")
@door_options
def references(file: Path, out: Path, keep: int, timeout_s: float, door: Door) -> None:
    """Let the `candidates` of every row of FILE play a tournament; write the best as its reference.

    What is decided is kept beside OUT: after a failure the same command goes on from there.
    """
    from forklight_core.whole_files import WholeFile
    from forklight_reward.judge.references import Contest, read_contests

    contests: Sequence[Contest] = read_contests(file)
    played = f"{file.read_text(encoding='utf-8')}\n{door.model}\n{keep}"
    partial = out.with_name(f".{out.name}.{hashlib.sha256(played.encode()).hexdigest()[:12]}.partial")

    async def play(tick: Callable[[int], object]) -> dict[str, float]:
        from forklight_reward.judge.pairwise import Pairwise
        from forklight_reward.judge.references import Tournaments

        async with door.open(mode="pairwise") as judges:
            engine = judges.default
            assert isinstance(engine, Pairwise)
            games = Tournaments(judge=engine, keep=keep, timeout_s=timeout_s, at_once=door.concurrency)
            totals = await games.play_all(contests, partial, tick)
            return {**totals, "inconsistency": round(engine.statistics.report().inconsistency, 4)}

    with click.progressbar(length=len(contests), label="rows", file=sys.stderr) as bar:
        totals = asyncio.run(play(bar.update))
    with WholeFile(out) as whole, partial.open("rb") as found:
        for line in found:
            whole.write(line)
    partial.unlink()
    print_json_line({"out": str(out), **totals})


@judge.command()
@click.option(
    "--mode", type=click.Choice(["five_grades", "pairwise"]), default="five_grades", show_default=True
)
@click.option("--length-neutral", is_flag=True, help="Ask with the rubric that values no length.")
@click.option("--timeout-s", type=float, default=300.0, show_default=True, help="Of each of the two parts.")
@door_options
def check(mode: str, length_neutral: bool, timeout_s: float, door: Door) -> int:
    """Ask a model what a judge must not pay for: worthless answers, and padding. Exit code 1: it pays."""

    async def ask() -> tuple[str, list[CanaryResult], PaddingReport | None]:
        from forklight_reward.judge.canaries import judge_canaries
        from forklight_reward.judge.half_right import HALF_RIGHT
        from forklight_reward.judge.padding import probe_padding

        async with door.open(mode=mode, length_neutral=length_neutral) as judges:
            engine = judges.default
            canaries = await judge_canaries(engine, timeout_s=timeout_s)
            return engine.version, canaries, await probe_padding(engine, HALF_RIGHT, timeout_s=timeout_s)

    version, canaries, padding = asyncio.run(ask())
    click.echo(f"judge {version}\n")
    return ExitCode.OK if print_tables(canaries, padding) else ExitCode.FAILED


def print_tables(canaries: Sequence[CanaryResult], padding: PaddingReport | None) -> bool:
    """Both tables; whether all is well."""
    from forklight_reward.judge.length_monitor import MonitorOptions

    click.echo(f"{'answer':22} {'question':44} {'score':>7}  result")
    for each in canaries:
        score = "abstain" if each.score is None else f"{each.score:.2f}"
        click.echo(f"{each.name:22} {each.task[:44]:44} {score:>7}  {'ok' if each.passed else 'PAID FOR'}")
    most = MonitorOptions().most_padding_gain
    pays = padding is not None and padding.lower95 > most
    if padding is None:
        click.echo("\npadding: the judge abstained from too many answers to tell")
    else:
        click.echo(
            f"\npadding by 2 and 4: gain {padding.gain:+.3f}, surely above {padding.lower95:+.3f} "
            f"({padding.num_pairs} answers, at most {most}): {'PAID FOR' if pays else 'ok'}"
        )
    return padding is not None and not pays and all(each.passed for each in canaries)


@judge.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
def allow(run_folder: Path) -> None:
    """Let the judge of a run grade again that was switched off because it paid for length (level 4 to 2)."""
    from forklight_core.errors import InvalidInputError
    from forklight_reward.judge.store import CalibrationStore

    store = CalibrationStore(run_folder)
    if not store.folder.is_dir():
        raise InvalidInputError(f"{store.folder} is not there: name the folder of a run that has a judge")
    calibration = store.allow_again()
    print_json_line({"calibration": calibration.version, "level": calibration.level.value})
