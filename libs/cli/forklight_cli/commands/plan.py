"""`forklight plan`: what a run needs and yields, before anyone rents a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from forklight_cli.exits import ExitCode

if TYPE_CHECKING:
    from forklight_model.planning.request import Request

EPILOG = """\b
Examples:
  forklight plan --model minimax-m1 --gpus 512 --gpu h800
  forklight plan --model small --gpus 1 --gpu h200 --window 16384
  forklight plan --model run.toml --gpus 8 --gpu h100 --assume decode_busy=0.8

Exit codes: 0 it fits, 1 it does not (with what to change), 2 wrong input."""


class Given(TypedDict):
    """The options as they were typed."""

    model: str
    gpus: int
    gpu: str
    window: int | None
    zero: int
    expert_parallel: int | None
    sequence_parallel: int | None
    rollout_share: float | None
    rollout_pod: int | None
    price: float | None
    assume: tuple[str, ...]
    as_json: bool


COUNT = click.IntRange(min=1)


@click.command(epilog=EPILOG)
@click.option("--model", required=True, metavar="NAME", help="nano, mini, small, minimax-m1, or a run file.")
@click.option("--gpus", required=True, type=COUNT, help="GPUs in all: trainer and rollout.")
@click.option("--gpu", required=True, metavar="NAME", help="a100, h100, h200 or h800.")
@click.option("--window", type=COUNT, help="Longest response, in tokens.")
@click.option("--zero", type=click.IntRange(1, 3), default=3, show_default=True, help="ZeRO stage.")
@click.option("--expert-parallel", type=COUNT, help="Trainer GPUs that share the experts.")
@click.option("--sequence-parallel", type=COUNT, help="Trainer GPUs that share a sequence.")
@click.option("--rollout-share", type=float, help="Share of GPUs that only generate; 0: all do both in turn.")
@click.option("--rollout-pod", type=COUNT, help="GPUs of a rollout pod.")
@click.option("--price", type=click.FloatRange(min=0), help="US dollars a GPU and hour.")
@click.option("--assume", multiple=True, metavar="NAME=VALUE", help="Another value of what the plan assumes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(**given: Unpack[Given]) -> ExitCode:
    """What a run needs and yields: memory a GPU by part, throughput, traffic, time and cost.

    Says what does not fit and what to change. Options of the layout that are left out are chosen: the fastest
    that fits. Every assumption is printed with its source; --assume replaces it.
    """
    from forklight_cli.plan_report import print_plan, print_plan_json
    from forklight_model.planning.plan import make_plan
    from forklight_model.planning.verdict import find_misfits

    made = make_plan(read_request(given))
    misfits = find_misfits(made)
    (print_plan_json if given["as_json"] else print_plan)(made, misfits)
    return ExitCode.FAILED if misfits else ExitCode.OK


def read_request(given: Given) -> Request:
    """The options as a request; ConfigError for what cannot be."""
    from forklight_model.planning.chosen import choose_run, with_assumptions
    from forklight_model.planning.hardware import find_gpu

    gpu = find_gpu(given["gpu"])
    if given["price"] is not None:
        gpu = replace(gpu, price_per_hour=given["price"], price_source="--price")
    request = replace(
        choose_run(given["model"], gpu, given["gpus"]),
        zero=given["zero"],
        expert_parallel=given["expert_parallel"],
        sequence_parallel=given["sequence_parallel"],
        rollout_share=given["rollout_share"],
        rollout_pod=given["rollout_pod"],
    )
    values = read_assumptions(given["assume"])
    if given["window"] is not None:
        values = {**values, "window": float(given["window"])}
    return with_assumptions(request, values, "given")


def read_assumptions(words: tuple[str, ...]) -> Mapping[str, float]:
    """NAME=VALUE of each word."""
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            values[name.strip()] = float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise click.UsageError(f"--assume {word!r}: write NAME=VALUE, with a number")
    return values
