"""`forklight scale`: how many pods a workload of a cluster has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from forklight_core.cluster import Cluster, Workload

POLL_S = 1.0
AUTO = "auto"
DEFAULT_WAIT_S = 600.0


@click.command()
@click.argument("workload")
@click.argument("replicas", metavar=f"N|{AUTO}")
@click.option(
    "--namespace",
    default="",
    expose_value=False,
    callback=lambda ctx, _, value: ctx.meta.update(namespace=value),
    help="Default: that of the kubeconfig's context, or this pod's own.",
)
@click.option(
    "--context",
    default="",
    expose_value=False,
    callback=lambda ctx, _, value: ctx.meta.update(context=value),
    help="Context of the kubeconfig; default: its current one.",
)
@click.option("--hold", is_flag=True, help="Of a workload that KEDA scales: stay at N until `auto`.")
@click.option("--dry-run", is_flag=True, help="Ask the cluster what it would do; change nothing.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(1),
    is_flag=False,
    flag_value=DEFAULT_WAIT_S,
    default=None,
    metavar="[SECONDS]",
    help=f"Return when so many pods are ready, at most after SECONDS ({DEFAULT_WAIT_S:g}).",
)
@click.pass_context
def scale(
    ctx: click.Context, workload: str, replicas: str, hold: bool, dry_run: bool, wait_s: float | None
) -> None:
    """Give WORKLOAD (a name or a component, such as rollout) N pods; `auto` gives it back to KEDA."""
    from forklight_core.cluster import open_cluster

    number = read_replicas(workload, replicas)
    cluster = open_cluster(namespace=ctx.meta["namespace"], context=ctx.meta["context"])
    try:
        if hold or number is None:
            scaled = cluster.hold(workload, number, dry_run=dry_run)
        else:
            scaled = cluster.scale(workload, number, dry_run=dry_run)
        click.echo(describe(scaled, cluster.namespace, is_auto=number is None, dry_run=dry_run))
        if wait_s is not None and number is not None and not dry_run:
            click.echo(wait_ready(cluster, scaled, number, wait_s))
    finally:
        cluster.close()


def read_replicas(workload: str, replicas: str) -> int | None:
    """A number, or None for `auto`; a run folder is told where its pods come from."""
    from forklight_core.errors import InvalidInputError

    if (Path(workload) / "run.toml").is_file():
        raise InvalidInputError(
            f"{workload} is the folder of a run here, whose pods `forklight up` starts: end it and "
            f"go on with `forklight resume {workload} --set rollout.pods=N`; this command scales clusters"
        )
    if replicas == AUTO:
        return None
    if not replicas.isdecimal():
        raise InvalidInputError(f"{replicas!r}: expected a number of pods, or {AUTO}")
    return int(replicas)


def describe(scaled: Workload, namespace: str, *, is_auto: bool, dry_run: bool) -> str:
    """What was asked for, in a line."""
    what = f"{scaled.kind}/{scaled.name} in {namespace}"
    would = "would be" if dry_run else "is"
    if is_auto:
        return f"{what}: {would} scaled by {scaled.autoscaler} again"
    return f"{what}: {scaled.wanted} wanted, {scaled.ready} ready" + (" (nothing changed)" if dry_run else "")


def wait_ready(cluster: Cluster, scaled: Workload, number: int, timeout_s: float) -> str:
    """Until as many are ready; DeadlineError says what the others wait for."""
    from forklight_core.cluster import find_workload
    from forklight_core.errors import DeadlineError

    started = time.monotonic()
    while True:
        now = find_workload(cluster.workloads(), scaled.name, cluster.namespace)
        waited_s = time.monotonic() - started
        if now.ready == number:
            return f"{number} ready after {waited_s:.0f} s"
        if waited_s > timeout_s:
            reasons = {
                pod.name: pod.reason or pod.phase for pod in cluster.pods(now.selector) if not pod.ready
            }
            others = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items())[:5])
            raise DeadlineError(
                f"{now.ready} of {number} pods of {now.kind}/{now.name} are ready after {timeout_s:g} s: "
                f"{others or 'the cluster has not made the others yet'}"
            )
        time.sleep(min(POLL_S, timeout_s))
