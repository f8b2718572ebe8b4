"""The live state in Redis: one Lua script a transition. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forklight_buffer.adapters import replies
from forklight_buffer.adapters.scripts import Argument, Reply, ScriptRunner
from forklight_buffer.live import (
    Arrival,
    BatchLease,
    Burial,
    Burying,
    Judgement,
    LiveGroup,
    LiveSample,
    LiveSegment,
    Opening,
    PendingSample,
    Restoration,
    SegmentsNow,
    Standing,
)
from forklight_buffer.ports import Accepted, Clock, NoBatch
from forklight_buffer.records import BYTES_PER_TOKEN, Ending, GroupRow
from forklight_buffer.states import Phase, State, Status
from forklight_core import ids
from forklight_core.errors import FencedError, PreconditionError
from forklight_core.queues import Lease


class RedisLiveState:
    """`LiveState` on a Redis server. With `past_gate` it is the view reconciliation works through."""

    def __init__(self, runner: ScriptRunner, clock: Clock, *, past_gate: bool = False) -> None:
        self._runner = runner
        self._clock = clock
        self._past_gate = past_gate

    async def _run(self, name: str, *arguments: Argument) -> Reply:
        return await self._runner.run(name, arguments, past_gate=self._past_gate)

    async def open_group(self, opening: Opening) -> bool:
        row = opening.row
        meta = _meta(row, opening.spec_id, opening.spec_bytes)
        arguments: list[Argument] = [
            row.group_id, row.opened_at, int(row.purpose), row.size, row.window, BYTES_PER_TOKEN,
            opening.task, len(meta) // 2, *meta, *_flat(opening.endings),
        ]  # fmt: skip
        return await self._run("open_group", *arguments) == 1

    async def submit_trajectory(self, arrival: Arrival) -> Accepted:
        reply = await self._run(
            "submit_trajectory",
            arrival.group_id, ids.sample_index(arrival.sample_id), *_claim(arrival.lease), self._clock(),
            arrival.min_version, arrival.num_tokens, arrival.num_bytes, int(arrival.cancelled),
            arrival.trajectory, arrival.scoring_task, arrival.payload_id,
        )  # fmt: skip
        return replies.accepted(replies.words(reply), f"trajectory of {arrival.sample_id}")

    async def submit_verdict(self, judgement: Judgement) -> Accepted:
        reward = "" if judgement.reward is None else repr(float(judgement.reward))
        reply = await self._run(
            "submit_verdict",
            judgement.group_id, ids.sample_index(judgement.sample_id), *_claim(judgement.lease),
            self._clock(), judgement.verdict, reward, int(judgement.state), judgement.reason,
        )  # fmt: skip
        return replies.accepted(replies.words(reply), f"verdict of {judgement.sample_id}")

    async def pending_samples(self, group_id: str, lease: Lease) -> list[PendingSample]:
        reply = replies.words(await self._run("pending_samples", group_id, *_claim(lease)))
        if reply[0] != "pending":
            replies.accepted(reply, f"pending samples of {group_id}")
        return [replies.pending_sample(text) for text in reply[1:]]

    async def save_segment(self, sample_id: str, segment: LiveSegment, lease: Lease) -> SegmentsNow:
        reply = await self._run(
            "save_segment",
            ids.group_of(sample_id), ids.sample_index(sample_id), *_claim(lease), self._clock(),
            segment.start, segment.num_tokens, segment.payload_id, segment.payload_bytes,
            segment.min_version,
        )  # fmt: skip
        return replies.segments_now(replies.words(reply), f"segment at {segment.start} of {sample_id}")

    async def drop_segments(self, sample_id: str, from_start: int, lease: Lease) -> SegmentsNow:
        place = (ids.group_of(sample_id), ids.sample_index(sample_id))
        reply = await self._run("drop_segments", *place, *_claim(lease), from_start)
        return replies.segments_now(replies.words(reply), f"segments from {from_start} of {sample_id}")

    async def lease_batch(self, *, epoch: int, step: int) -> BatchLease | NoBatch:
        reply = replies.words(await self._run("lease_batch", epoch, step, self._clock()))
        word = reply[0]
        if word == "phase":
            return NoBatch(phase=Phase(int(reply[1])))
        if word == "wait":
            return NoBatch(num_missing=int(reply[1]))
        if word in ("fenced", "past", "gap"):
            _refuse_step(word, int(reply[1]), epoch, step)
        return BatchLease(
            step=step, policy_version=int(reply[1]), group_ids=tuple(reply[2:]), is_new=word == "new"
        )

    async def commit_step(self, step: int, sample_ids: Sequence[str]) -> list[str]:
        by_group: dict[str, list[str]] = {}
        for sample in sample_ids:
            by_group.setdefault(ids.group_of(sample), []).append(str(ids.sample_index(sample)))
        arguments: list[Argument] = [self._clock(), step]
        for group_id, indices in by_group.items():
            arguments += [group_id, ",".join(indices)]
        refused = replies.words(await self._run("commit_step", *arguments))
        return [
            ids.sample_id(group, int(index))
            for group, _, index in (text.rpartition("/s") for text in refused)
        ]

    async def close_samples(
        self, group_id: str, endings: Sequence[Ending], *, by_ledger: bool = False
    ) -> list[int]:
        arguments = (self._clock(), group_id, int(by_ledger), *_flat(endings))
        reply = replies.words(await self._run("close_samples", *arguments))
        return [int(index) for index in reply[1:]]

    async def close_group(self, group_id: str, state: State, reason: str, *, leased_too: bool) -> int:
        reply = await self._run("close_group", self._clock(), group_id, int(state), reason, int(leased_too))
        return _number(reply)

    async def forget_group(self, group_id: str, num_known: int, num_trash_bytes: int = 0) -> bool:
        return await self._run("forget_group", group_id, num_known, num_trash_bytes) == 1

    async def bury_entry(self, burial: Burial) -> Burying:
        reply = await self._run(
            "bury_entry",
            burial.queue, burial.entry_id, int(burial.idle_s * 1000), burial.num_allowed, self._clock(),
            burial.group_id, "" if burial.index is None else burial.index, burial.reason,
            f"{burial.queue}:{burial.entry_id}", burial.letter,
        )  # fmt: skip
        return Burying(_number(reply))

    async def set_run(self, fields: Mapping[str, str], *, weights: bytes = b"") -> None:
        arguments: list[Argument] = [weights]
        for name, value in fields.items():
            arguments += [name, value]
        await self._run("set_run", *arguments)

    async def restore_group(self, restoration: Restoration) -> Status:
        row = restoration.row
        meta = _meta(row, restoration.spec_id, restoration.spec_bytes)
        meta += ["purpose", int(row.purpose), "window", row.window, "at", row.opened_at]
        step = "" if restoration.step is None else restoration.step
        arguments: list[Argument] = [row.group_id, self._clock(), step, row.size, len(meta) // 2, *meta]
        for sample in restoration.samples:
            arguments += _restored(sample)
        reply = await self._run("restore_group", *arguments)
        return Status(replies.words([reply])[0])

    async def place_batch(self, step: int, policy_version: int, group_ids: Sequence[str]) -> None:
        await self._run("place_batch", self._clock(), step, policy_version, *group_ids)

    async def read_group(self, group_id: str) -> LiveGroup | None:
        found = replies.pairs(await self._run("read", "group", group_id))
        return replies.live_group(group_id, found) if found else None

    async def live_groups(self, *, opened_before: float | None = None) -> list[str]:
        if opened_before is None:
            return replies.words(await self._run("read", "live"))
        return replies.words(await self._run("read", "older", opened_before))

    async def unmoved_groups(self, group_ids: Sequence[str], before: float) -> list[str]:
        return replies.words(await self._run("read", "unmoved", before, *group_ids))

    async def unjournalled(self, limit: int) -> list[str]:
        return replies.words(await self._run("read", "unjournalled", limit))

    async def batches(self) -> dict[int, tuple[str, ...]]:
        found = replies.pairs(await self._run("read", "batches"))
        return {int(step): tuple(body.decode().split("\n")[1:]) for step, body in found.items()}

    async def standing(self) -> Standing:
        return replies.standing(replies.pairs(await self._run("read", "run")))

    async def open_counts(self) -> dict[State, int]:
        found = replies.pairs(await self._run("read", "counts"))
        return {State(int(state)): int(count) for state, count in found.items() if int(count)}

    async def dead_letters(self) -> dict[str, bytes]:
        return replies.pairs(await self._run("read", "dead"))

    async def drop_dead_letters(self, letter_ids: Sequence[str]) -> None:
        await self._run("drop_letters", *letter_ids)


def _claim(lease: Lease) -> tuple[str, str, int]:
    return lease.entry_id, lease.consumer, lease.fence


def _flat(endings: Sequence[Ending]) -> list[Argument]:
    return [part for ending in endings for part in (ending.index, int(ending.state), ending.reason)]


def _meta(row: GroupRow, spec_id: str, spec_bytes: int) -> list[Argument]:
    return [
        "prompt", row.prompt_id, "kind", row.kind, "index", row.index, "position", row.position,
        "version", row.opened_version, "spec", spec_id, "spec_bytes", spec_bytes,
    ]  # fmt: skip


def _restored(sample: LiveSample) -> list[Argument]:
    return [
        sample.index, int(sample.state), sample.min_version, sample.num_tokens, sample.num_bytes,
        sample.reason, sample.trajectory, sample.verdict,
        "" if sample.reward is None else repr(sample.reward),
    ]  # fmt: skip


def _number(reply: Reply) -> int:
    if not isinstance(reply, int):
        raise TypeError(f"expected a number from the script, got {reply!r}")
    return reply


def _refuse_step(word: str, number: int, epoch: int, step: int) -> None:
    if word == "fenced":
        raise FencedError(
            f"epoch {epoch} is over, epoch {number} has begun: another trainer restored; this one must end"
        )
    if word == "past":
        raise PreconditionError(
            f"step {step} cannot be leased: step {number} is committed already; restore the newest checkpoint"
        )
    raise PreconditionError(f"step {step} cannot be leased before step {number}: lease steps in order")
