"""Makes Redis agree with the ledger: at start, after Redis restarted, after a trainer rewound the ledger.

The ledger is right about what is terminal, committed and in which batch. Redis is right about everything
else it still has. A group Redis lost is opened again under its own name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from forklight.v1 import types_pb2
from forklight_buffer.context import Context
from forklight_buffer.live import LiveGroup, LiveSample, Restoration
from forklight_buffer.ports import LiveState
from forklight_buffer.prompts import Prompt, PromptBook
from forklight_buffer.records import Control, Ending, OpenGroup
from forklight_buffer.rows import live_samples, row_of_group
from forklight_buffer.states import Purpose, Reason, State, Status, with_detail
from forklight_buffer.steering import window_of
from forklight_buffer.tasks import TaskMaker
from forklight_core.runfile import RunFile

Books = Mapping[Purpose, PromptBook]


class Reconciler:
    """Works through a view of the live state that passes the gate, which is shut while it works."""

    def __init__(self, context: Context, live: LiveState, books: Books, tasks: TaskMaker) -> None:
        self._context = context
        self._live = live
        self._books = books
        self._tasks = tasks

    async def reconcile(self) -> int:
        """Returns how many groups had to be opened or written again. Callers hold the context's turn."""
        ledger = self._context.ledger
        control = await asyncio.to_thread(ledger.control)
        await self._copy_control(control)
        known = (
            await self._live.live_groups()
        )  # first: what is missing here has ended before the ledger is read
        groups = {group.row.group_id: group for group in await asyncio.to_thread(ledger.open_groups)}
        for group_id in known:
            if group_id not in groups:
                await self._end_group(group_id)
        mended = 0
        for group in groups.values():
            mended += await self._mend(group)
        await self._place_batches(control, groups)
        return mended

    async def _copy_control(self, control: Control) -> None:
        weights = await asyncio.to_thread(self._context.ledger.newest_weights)
        message = b""
        if weights is not None:
            message = types_pb2.WeightsRef(
                version=weights.version, manifest=weights.manifest, manifest_id=weights.manifest_id
            ).SerializeToString()
        fields = {
            "phase": str(int(control.phase)),
            "epoch": str(control.epoch),
            "step": str(control.step),
            "version": str(control.version),
            "window": str(window_of(control, self._context.run_file)),
        }
        await self._live.set_run(fields | limit_fields(self._context.run_file), weights=message)

    async def _end_group(self, group_id: str) -> None:
        """The ledger says the group is over, or never heard of it (then it is entered as Redis has it)."""
        group = await self._live.read_group(group_id)
        if group is None:
            return
        ledger = self._context.ledger
        if await asyncio.to_thread(ledger.read_group, group_id) is None:
            await asyncio.to_thread(ledger.journal_groups, [group.row()])
            await self._context.record(
                "group_adopted", f"{group_id} was open in Redis and unknown to the ledger"
            )
            return
        endings = await asyncio.to_thread(ledger.endings_of, group_id)
        await self._live.close_samples(group_id, endings, by_ledger=True)

    async def _mend(self, group: OpenGroup) -> bool:
        found = await self._live.read_group(group.row.group_id)
        if group.leased is not None and not _is_placed(group, found):
            await self._write_again(group)
            return True
        if found is None:
            await self._open_again(group)
            return True
        await self._keep_segments(found)
        missing = [
            ending
            for index, ending in group.endings.items()
            if found.samples[index].state is not ending.state
        ]
        if missing:
            await self._live.close_samples(found.group_id, missing, by_ledger=True)
        return False

    async def _keep_segments(self, found: LiveGroup) -> None:
        """Redis may have gone back to a time when these were still needed."""
        needed = [segment.payload_id for sample in found.samples for segment in sample.segments]
        if needed:
            await asyncio.to_thread(self._context.ledger.keep_payloads, needed)

    async def _write_again(self, group: OpenGroup) -> None:
        """A delivered group: with its trajectories and rewards, where the ledger says it belongs."""
        leased = group.leased
        if leased is None:
            return
        delivered = {sample.index: sample for sample in live_samples(leased)}
        samples = []
        for index in range(group.row.size):
            ending = group.endings.get(index)
            if ending is None and index not in delivered:
                ending = Ending(index=index, state=State.INFRA_FAILED, reason=Reason.BLOB_LOST)
            samples.append(delivered[index] if ending is None else _ended_sample(ending))
        step = leased.step if leased.step >= 0 else None
        await self._live.restore_group(Restoration(row=group.row, step=step, samples=tuple(samples)))

    async def _open_again(self, group: OpenGroup) -> None:
        prompt = self._find_prompt(group)
        if prompt is None:
            await self._give_up(group)
            return
        opening = await self._tasks.make_opening(group.row, prompt, tuple(group.endings.values()))
        await self._live.open_group(opening)

    def _find_prompt(self, group: OpenGroup) -> Prompt | None:
        book = self._books.get(group.row.purpose)
        return None if book is None else book.by_id(group.row.prompt_id)

    async def _give_up(self, group: OpenGroup) -> None:
        """The prompt is no longer in its file: nobody can generate the group."""
        row, at = group.row, self._context.clock()
        reason = with_detail(Reason.PROMPT_LOST, f"prompt {row.prompt_id} is no longer in its file")
        rows = [
            row_of_group(row, index, State.INFRA_FAILED, reason=reason, at=at)
            for index in range(row.size)
            if index not in group.endings
        ]
        await asyncio.to_thread(self._context.ledger.enter_samples, rows)
        await self._context.record("prompt_lost", f"{row.group_id}: {reason}")

    async def _place_batches(self, control: Control, groups: Mapping[str, OpenGroup]) -> None:
        """Outstanding batches as journalled; batches of steps that are learned already are dissolved."""
        journalled: dict[int, list[OpenGroup]] = {}
        for group in groups.values():
            if group.leased is not None and group.leased.step > control.step:
                journalled.setdefault(group.leased.step, []).append(group)
        for step in await self._live.batches():
            if step <= control.step:
                await self._live.place_batch(step, 0, [])
        for step, members in journalled.items():
            members.sort(key=lambda group: (group.leased.position if group.leased else 0, group.row.group_id))
            version = members[0].leased.policy_version if members[0].leased else 0
            await self._live.place_batch(step, version, [group.row.group_id for group in members])


def limit_fields(run_file: RunFile) -> dict[str, str]:
    """What scripts must know of the run file."""
    return {
        "max_staleness": str(run_file.buffer.max_staleness),
        "min_scored_samples": str(run_file.buffer.min_scored_samples),
        "dynamic_sampling": str(int(run_file.buffer.dynamic_sampling)),
        "groups_per_step": str(run_file.trainer.groups_per_step),
    }


def _is_placed(group: OpenGroup, found: LiveGroup | None) -> bool:
    """Whether Redis has a delivered group where the ledger says it belongs."""
    if found is None or group.leased is None:
        return False
    if any(sample.state is State.TRAINED and sample.index not in group.endings for sample in found.samples):
        return False
    if found.status is Status.CLOSED:
        return True  # all has ended in Redis; the journal takes it from there
    if group.leased.step < 0:
        return found.status is Status.READY or (found.status is Status.LEASED and found.step is not None)
    return found.status is Status.LEASED and found.step == group.leased.step


def _ended_sample(ending: Ending) -> LiveSample:
    return LiveSample(
        index=ending.index,
        state=ending.state,
        since=0.0,
        min_version=0,
        num_tokens=0,
        num_bytes=0,
        reason=ending.reason,
    )
