"""`python -m forklight_buffer.measure`: what every script and every ledger transaction costs on this machine.

Groups of 16 and batches of 32 groups, as in the paper, on the embedded server and a ledger on disk.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from forklight.v1 import types_pb2
from forklight_buffer.records import Ending, LeasedGroup
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, rehearse, write_prompts
from forklight_buffer.rows import row_of_live
from forklight_buffer.states import State
from forklight_core import ids
from forklight_core.queues import Lease
from forklight_core.redis_server import start_embedded
from forklight_core.runfile import RunFile

NUM_GROUPS, GROUP_SIZE, GROUPS_A_STEP = 128, 16, 32
Call = Callable[[], Awaitable[object]]


class Table:
    """Times calls one after another: the whole round trip, and what the server itself spent."""

    def __init__(self, play: Rehearsal) -> None:
        self._redis = play.outside.redis
        self.lines = [f"{'what':34} {'calls':>6} {'p50 us':>8} {'p99 us':>8} {'server us':>10}"]

    async def time(self, name: str, calls: list[Call]) -> None:
        """One line."""
        await self._redis.config_resetstat()
        taken = []
        for call in calls:
            started = time.perf_counter()
            await call()
            taken.append((time.perf_counter() - started) * 1e6)
        taken.sort()
        stats = await self._redis.info("commandstats")
        server = stats.get("cmdstat_evalsha", {}).get("usec_per_call", "")
        p99 = taken[min(len(taken) - 1, int(len(taken) * 0.99))]
        self.lines.append(f"{name:34} {len(calls):6} {median(taken):8.0f} {p99:8.0f} {server!s:>10}")


async def measure(play: Rehearsal) -> list[str]:
    """Every transition of a step, in order."""
    table = Table(play)
    await play.restore()
    await table.time(f"opener pass, {NUM_GROUPS // 2} groups", [play.open, play.open])
    leases = await _measure_arrivals(play, table)
    await _measure_verdicts(play, table)
    await _measure_steps(play, table)
    await _measure_endings(play, table, leases)
    await _measure_ledger(play, table)
    return table.lines


async def _measure_arrivals(play: Rehearsal, table: Table) -> dict[str, Lease]:
    intake = play.buffer.intake
    leases = {
        types_pb2.GenerationTask.FromString(leased.body).envelope.group_id: leased.lease
        for leased in await play.take_tasks(most=NUM_GROUPS)
    }
    samples = [ids.sample_id(group, index) for group in leases for index in range(GROUP_SIZE)]
    await table.time(
        "pending_samples", [_call(intake.pending_samples, group, leases[group]) for group in leases]
    )
    saved = samples[: len(samples) // 8]
    segments = [
        (sample, play.segment(sample, start, tokens=1024), leases[ids.group_of(sample)])
        for start in range(0, 8192, 1024)
        for sample in saved
    ]
    await table.time("save_segment, 1st to 8th", [_call(play.save, *segment) for segment in segments])
    groups = {ids.group_of(sample) for sample in saved}
    await table.time(
        "pending_samples, 16 x 8 segments",
        [_call(intake.pending_samples, group, leases[group]) for group in groups],
    )
    arrivals = [(play.trajectory(sample), leases[ids.group_of(sample)]) for sample in samples]
    await table.time("submit_trajectory", [_call(intake.submit_trajectory, *arrival) for arrival in arrivals])
    await table.time("submit_trajectory, again", [_call(intake.submit_trajectory, *arrivals[0])] * 500)
    return leases


async def _measure_verdicts(play: Rehearsal, table: Table) -> None:
    entries = await play.scoring.take("reward-0", wait_s=0.0, max_items=NUM_GROUPS * GROUP_SIZE)
    verdicts = []
    for leased in entries:
        sample = types_pb2.ScoringTask.FromString(leased.body).envelope.sample_id
        verdicts.append((play.verdict(sample, mixed_reward(sample)), leased.lease))
    submit = play.buffer.intake.submit_verdict
    await table.time("submit_verdict", [_call(submit, *verdict) for verdict in verdicts])


async def _measure_steps(play: Rehearsal, table: Table) -> None:
    live = play.buffer.context.live
    lease = [_call(_lease, play, step) for step in (1, 2, 3)]
    await table.time(f"lease_batch, {GROUPS_A_STEP} x {GROUP_SIZE}", lease)
    await table.time(f"lease_batch again, {GROUPS_A_STEP} x {GROUP_SIZE}", lease)
    records = [play.record(await play.batch(step)) for step in (1, 2)]
    commits = [_call(live.commit_step, record.step, record.sample_ids) for record in records]
    await table.time(f"commit_step, {GROUPS_A_STEP} x {GROUP_SIZE}", commits)
    groups = sorted({ids.group_of(sample) for sample in records[0].sample_ids})
    await table.time("read group", [_call(live.read_group, group) for group in groups])
    await table.time("forget_group", [_call(live.forget_group, group, GROUP_SIZE) for group in groups])


async def _lease(play: Rehearsal, step: int) -> object:
    return await play.buffer.context.live.lease_batch(epoch=play.epoch, step=step)


async def _measure_endings(play: Rehearsal, table: Table, leases: dict[str, Lease]) -> None:
    live = play.buffer.context.live
    left = [group for group in await live.live_groups() if group in leases][-GROUPS_A_STEP // 2 :]
    lost = [Ending(index=0, state=State.INFRA_FAILED, reason="blob_lost")]
    await table.time("close_samples, 1 of 16", [_call(live.close_samples, group, lost) for group in left])
    close = [_call(_close, play, group) for group in left]
    await table.time("close_group, 15 of 16", close)
    await table.time("standing", [live.standing] * 200)


async def _close(play: Rehearsal, group: str) -> object:
    return await play.buffer.context.live.close_group(group, State.CANCELLED, "run_finished", leased_too=True)


async def _measure_ledger(play: Rehearsal, table: Table) -> None:
    ledger, live = play.buffer.context.ledger, play.buffer.context.live
    found = [await live.read_group(group) for group in (await live.unjournalled(GROUPS_A_STEP))]
    rows = [
        row_of_live(group, sample)
        for group in found
        if group
        for sample in group.samples
        if sample.state.terminal
    ]
    await table.time(f"ledger: {len(rows)} terminal samples", [_thread(ledger.enter_samples, rows)])
    body = b"x" * GROUP_SIZE * 400
    batch = [
        LeasedGroup(group_id=f"x{number}", step=99, position=number, policy_version=0, body=body)
        for number in range(GROUPS_A_STEP)
    ]
    await table.time(f"ledger: batch of {GROUPS_A_STEP} groups", [_thread(ledger.journal_batch, batch)] * 5)
    await table.time("ledger: control", [_thread(ledger.control)] * 200)
    await table.time(f"reconcile {len(await live.live_groups())} groups", [play.buffer.recover] * 3)


def _call(function: Callable[..., Awaitable[object]], *arguments: object) -> Call:
    return lambda: function(*arguments)


def _thread(function: Callable[..., object], *arguments: object) -> Call:
    return lambda: asyncio.to_thread(function, *arguments)


def main() -> None:
    """Run it in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_file = RunFile.model_validate(
            {
                "prompts": {"train": str(write_prompts(folder / "train.jsonl", 256))},
                "sampling": {"group_size": GROUP_SIZE, "max_new_tokens": 40960},
                "trainer": {"groups_per_step": GROUPS_A_STEP, "updates_per_version": 1},
                "buffer": {"max_open_groups": NUM_GROUPS, "max_staleness": 3},
            }
        )
        with start_embedded(folder / "redis") as server:
            stage = Stage(redis_url=server.url, folder=folder, run_file=run_file, run_id="measure")
            lines = asyncio.run(_rehearse(stage))
    sys.stdout.write("\n".join(lines) + "\n")


async def _rehearse(stage: Stage) -> list[str]:
    async with rehearse(stage) as play:
        return await measure(play)


if __name__ == "__main__":
    main()
