"""`forklight logic`: puzzles as a prompt file, each with the specification that the reward service checks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click

from forklight_cli.commands.output import print_json_line, write_lines

ALL = "all"


@click.group()
def logic() -> None:
    """Write logic puzzles as a prompt file; list their tasks."""


@logic.command(name="list")
def list_tasks() -> None:
    """Print the name of every task, one a line."""
    from forklight_reward.logic.registry import TASKS

    for name in sorted(TASKS):
        click.echo(name)


@logic.command()
@click.option("--task", required=True, help="Name of a task, or `all`.")
@click.option("--level", type=click.IntRange(1, 5), default=1, show_default=True, help="Difficulty.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Of each task.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="The first one.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON lines for `prompts.train`.")
def generate(task: str, level: int, count: int, seed: int, out: Path) -> None:
    """Write COUNT puzzles of every task: seeds SEED to SEED + COUNT - 1, so other seeds are other puzzles.

    A puzzle that an earlier seed of the file has drawn already is left out. A file that is there already is
    replaced when the new one is whole.
    """
    from forklight_reward.logic.registry import TASKS, task_of

    names = sorted(TASKS) if task == ALL else [task_of(task).name]
    num_asked = len(names) * count
    records = draw_records(names, level, range(seed, seed + count))
    with click.progressbar(
        length=num_asked, label="puzzles", file=sys.stderr, hidden=num_asked < 1000
    ) as bar:
        num_written = write_lines(out, _counted(records, bar.update))
    print_json_line({"out": str(out), "num_written": num_written, "num_repeated": num_asked - num_written})


@logic.command()
@click.option("--task", required=True, help="Name of a task of reasoning-gym.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Of items.")
@click.option("--seed", type=click.IntRange(0, 2**30), default=0, show_default=True, help="The first one.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON lines for `prompts.train`.")
def gym(task: str, count: int, seed: int, out: Path) -> None:
    """Write COUNT items of a task of reasoning-gym (extra `logic-rg`), to be scored in jails.

    An item that an earlier seed of the file has made already is left out.
    """
    num_written = write_lines(out, draw_gym_records(task, range(seed, seed + count)))
    print_json_line({"out": str(out), "num_written": num_written, "num_repeated": count - num_written})


def draw_gym_records(task: str, seeds: range) -> Iterator[Mapping[str, object]]:
    """Prompt records, no prompt twice."""
    from forklight_reward.gym.item import make_item

    seen: set[str] = set()
    for seed in seeds:
        item = make_item(task, seed)
        if item.prompt in seen:
            continue
        seen.add(item.prompt)
        yield {
            "id": f"gym-{task}-{seed}",
            "prompt": item.prompt,
            "kind": "gym",
            "gold": "",
            "spec": item.spec(),
        }


def _counted(
    records: Iterator[Mapping[str, object]], count: Callable[[int], None]
) -> Iterator[Mapping[str, object]]:
    for record in records:
        yield record
        count(1)


def draw_records(names: Sequence[str], level: int, seeds: range) -> Iterator[Mapping[str, object]]:
    """Prompt records, no prompt twice."""
    from forklight_reward.logic.registry import make_puzzle, spec_record

    for name in names:
        seen: set[str] = set()
        for seed in seeds:
            puzzle = make_puzzle(name, seed, level)
            if puzzle.prompt in seen:
                continue
            seen.add(puzzle.prompt)
            yield {
                "id": f"logic-{name}-{level}-{seed}",
                "prompt": puzzle.prompt,
                "kind": "logic",
                "gold": "",
                "spec": spec_record(name, seed, level, puzzle),
            }
