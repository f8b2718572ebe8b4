"""`forklight status`: where a run stands."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.output import message_fields, print_json

if TYPE_CHECKING:
    from forklight.v1 import buffer_pb2
    from forklight_cli.run_folder import RunFolder

EVENTS_SHOWN = 5


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(run_folder: Path, as_json: bool) -> None:
    """Phase, counts, queues, evaluations, stuck samples and rollout pods of the run of RUN_FOLDER."""
    from forklight_cli.pod_client import ask_pods, describe_pod
    from forklight_cli.run_folder import is_locked, open_run_folder, read_json_lines, read_system

    folder = open_run_folder(run_folder)
    record = read_system(folder)
    last_steps = deque(read_json_lines(folder.steps), maxlen=1)
    last_step: Mapping[str, object] = last_steps[0] if last_steps else {}
    is_up = is_locked(folder)
    reply = ask_buffer(folder) if is_up else None
    pods = ask_pods(record.addresses) if is_up else {}
    if as_json:
        return print_json(
            {
                "run_id": record.run_id,
                "up": reply is not None,
                "status": message_fields(reply) if reply else None,
                "pods": {name: message_fields(pod) if pod else None for name, pod in pods.items()},
                "last_step": last_step,
                "addresses": record.addresses,
                "pids": record.pids,
            }
        )
    click.echo(f"run {record.run_id} in {folder.path}: {'up' if reply else 'not up'}")
    if reply:
        print_status(reply)
    else:
        click.echo(f"  step       {last_step.get('step', 0)}")
        click.echo(f"  resume     forklight resume {run_folder}")
    for name, pod in pods.items():
        click.echo(f"  pod        {name}: {describe_pod(pod)}")
    return None


def ask_buffer(folder: RunFolder) -> buffer_pb2.GetStatusReply | None:
    """The buffer's answer; none while it is being started."""
    from forklight_cli.buffer_client import connect_buffer
    from forklight_core.errors import DeadlineError, UnavailableError

    try:
        with connect_buffer(folder) as buffer:
            return buffer.status()
    except (UnavailableError, DeadlineError):
        return None


def print_status(reply: buffer_pb2.GetStatusReply) -> None:
    """The reply in words."""
    from forklight.v1 import buffer_pb2, types_pb2
    from forklight_cli.up.events import describe_event

    phase = buffer_pb2.RunPhase.Name(reply.phase).removeprefix("RUN_PHASE_").lower()
    click.echo(f"  phase      {phase}{f' ({reply.reason})' if reply.reason else ''}")
    click.echo(f"  step       {reply.step}, version {reply.version}")
    click.echo(f"  window     {reply.window_tokens} tokens")
    click.echo(f"  groups     {reply.num_open_groups} open, {reply.num_ready_groups} ready")
    for count in reply.counts:
        state = types_pb2.SampleState.Name(count.state).removeprefix("SAMPLE_STATE_").lower()
        click.echo(f"  samples    {count.num_samples:8} {state} {count.reason}".rstrip())
    for queue in reply.queues:
        age = f", oldest {queue.oldest_age_s:.0f} s" if queue.oldest_age_s else ""
        click.echo(f"  queue      {queue.name}: {queue.num_waiting} waiting, {queue.num_leased} leased{age}")
    for result in reply.evaluations:
        click.echo(f"  held-out   {describe_round(result)}")
    if reply.num_skipped_evaluations:
        click.echo(f"  held-out   {reply.num_skipped_evaluations} rounds skipped: two others were open")
    for event in list(reply.events)[-EVENTS_SHOWN:]:
        click.echo(f"  event      {describe_event(event)}")
    if reply.num_dead_letters:
        click.echo(f"  dead       {reply.num_dead_letters} letters: `forklight queue dead`")
    for sample in reply.stuck:
        since = time.strftime("%H:%M:%S", time.localtime(sample.since))
        click.echo(f"  stuck      {sample.sample_id} in {sample.where} since {since}")


def describe_round(result: buffer_pb2.EvaluationResult) -> str:
    """A round on held-out prompts in words."""
    from forklight_cli.up.evaluations import round_of

    asked = f"{result.num_prompts} prompts x {result.samples_per_prompt}"
    failed = f", {result.num_failed} without a score" if result.num_failed else ""
    text = f"version {result.version}: reward {round_of(result)} ({asked}{failed})"
    if result.complete:
        return text
    return f"{text}, {'the run ended first' if result.cut else 'not complete'}"
