"""What people and the console ask: status and samples."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from dataclasses import replace
from operator import itemgetter

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer.context import Context
from forklight_buffer.journal import Journal
from forklight_buffer.ledger import SampleFilter
from forklight_buffer.live import Standing
from forklight_buffer.phases import is_last_evaluation
from forklight_buffer.ports import Entries, QueueName
from forklight_buffer.records import Control, Round, SampleRow
from forklight_buffer.rows import row_of_live
from forklight_buffer.states import RoundState, State
from forklight_buffer.steering import Steering, window_of
from forklight_buffer.watchdog import Watchdog
from forklight_core import ids
from forklight_core.errors import InvalidInputError

ROUNDS_SHOWN = 20
HOLDERS_SHOWN = 100
EVENTS_SHOWN = 20
MOST_EVENTS = 1000
DEFAULT_EVENTS = 100
MOST_SAMPLES = 1000
DEFAULT_SAMPLES = 100


class Inspection:
    """Reads; journals what has ended first, so that no sample is counted twice or not at all."""

    def __init__(
        self, context: Context, journal: Journal, watchdog: Watchdog, entries: Entries, *, steering: Steering
    ) -> None:
        self._context = context
        self._journal = journal
        self._watchdog = watchdog
        self._entries = entries
        self._steering = steering

    async def status(self) -> buffer_pb2.GetStatusReply:
        """Everything at a glance."""
        await self._journal.flush()
        context = self._context
        control = await asyncio.to_thread(context.ledger.control)
        standing = await context.live.standing()
        reply = buffer_pb2.GetStatusReply(
            run_id=context.run_id,
            phase=control.phase.wire,
            reason=control.reason,
            version=control.version,
            step=control.step,
            lineage=control.lineage,
            num_open_groups=standing.open_groups,
            num_ready_groups=standing.ready_groups,
            num_dead_letters=len(await context.live.dead_letters()),
            stuck=await self._watchdog.find_stuck(),
            window_tokens=window_of(control, context.run_file),
            events=await self._steering.last_events(EVENTS_SHOWN),
            is_last_evaluation=is_last_evaluation(control, context.run_file),
            num_skipped_evaluations=await asyncio.to_thread(context.ledger.num_skipped_rounds),
        )
        self._add_credit(reply, standing)
        await self._add_counts(reply)
        await self._add_rounds(reply)
        await self._add_weights(reply, control)
        return reply

    def _add_credit(self, reply: buffer_pb2.GetStatusReply, standing: Standing) -> None:
        section = self._context.run_file.buffer
        reply.credit_tokens = max(0, section.max_open_tokens - standing.held_tokens)
        reply.credit_bytes = max(0, section.max_open_bytes - standing.held_bytes)

    async def _add_counts(self, reply: buffer_pb2.GetStatusReply) -> None:
        for state, count in sorted((await self._context.live.open_counts()).items()):
            reply.counts.add(state=state.wire, num_samples=count)
        for (state, reason), count in (await asyncio.to_thread(self._context.ledger.tallies)).items():
            reply.counts.add(state=state.wire, reason=reason, num_samples=count)
        for name in QueueName:
            stats = await self._entries.stats(name)
            most = heapq.nlargest(HOLDERS_SHOWN, stats.holders.items(), key=itemgetter(1))
            reply.queues.add(
                name=name,
                num_waiting=stats.num_waiting,
                num_leased=stats.num_leased,
                oldest_age_s=stats.oldest_age_s,
                holders=[buffer_pb2.LeaseHolder(name=holder, num_leased=held) for holder, held in most],
            )

    async def _add_rounds(self, reply: buffer_pb2.GetStatusReply) -> None:
        ledger = self._context.ledger
        for round_ in await asyncio.to_thread(ledger.rounds, ROUNDS_SHOWN):
            if round_.state is RoundState.OPEN:
                scored, failed, mean = await asyncio.to_thread(ledger.evaluation_scores, round_.version)
                round_ = replace(round_, num_scored=scored, num_failed=failed, mean_reward=mean)
            reply.evaluations.append(result_message(round_))

    async def _add_weights(self, reply: buffer_pb2.GetStatusReply, control: Control) -> None:
        weights = await asyncio.to_thread(self._context.ledger.newest_weights)
        if weights is not None:
            reply.weights.CopyFrom(
                types_pb2.WeightsRef(
                    version=weights.version, manifest=weights.manifest, manifest_id=weights.manifest_id
                )
            )

    async def list_events(self, request: buffer_pb2.ListEventsRequest) -> buffer_pb2.ListEventsReply:
        """A page of all events."""
        events, following = await self._steering.list_events(
            after=request.after,
            limit=min(request.limit or DEFAULT_EVENTS, MOST_EVENTS),
            newest_first=request.newest_first,
        )
        return buffer_pb2.ListEventsReply(events=events, next=following)

    async def list_samples(self, request: buffer_pb2.ListSamplesRequest) -> buffer_pb2.ListSamplesReply:
        """Open and terminal samples, by id."""
        limit = min(request.limit or DEFAULT_SAMPLES, MOST_SAMPLES)
        wanted = SampleFilter(
            state=_state_of(request), group_id=request.group_id, after=request.after, limit=limit + 1
        )
        await self._journal.flush()
        live: list[SampleRow] = []
        if wanted.state is None or not wanted.state.terminal:
            live = [row async for row in self._live_rows(wanted)]
        ended: list[SampleRow] = []
        if wanted.state is None or wanted.state.terminal:
            ended = await asyncio.to_thread(self._context.ledger.list_samples, wanted)
        known = {row.sample_id for row in ended}
        live = [row for row in live if row.sample_id not in known]
        rows = list(heapq.merge(live, ended, key=lambda row: row.sample_id))
        more = len(rows) > limit
        page = rows[:limit]
        return buffer_pb2.ListSamplesReply(
            samples=[record_of(row) for row in page], next=page[-1].sample_id if more and page else ""
        )

    async def _live_rows(self, wanted: SampleFilter) -> AsyncIterator[SampleRow]:
        first = ids.group_of(wanted.after) if wanted.after else ""
        found = 0
        for group_id in sorted(await self._context.live.live_groups()):
            if group_id < first or (wanted.group_id and group_id != wanted.group_id):
                continue
            group = await self._context.live.read_group(group_id)
            for sample in group.samples if group is not None else ():
                row = row_of_live(group, sample) if group is not None else None
                if row is None or row.sample_id <= wanted.after or wanted.state not in (None, row.state):
                    continue
                yield row
                found += 1
            if found >= wanted.limit:
                return


def result_message(round_: Round) -> buffer_pb2.EvaluationResult:
    """A round as people get it."""
    message = buffer_pb2.EvaluationResult(
        version=round_.version,
        num_samples=round_.num_scored,
        num_failed=round_.num_failed,
        mean_reward=round_.mean_reward,
        complete=round_.complete,
        num_prompts=round_.num_prompts,
        samples_per_prompt=round_.samples_per_prompt,
        cut=round_.state is RoundState.CUT,
    )
    estimates = round_.estimates
    if estimates is not None:
        message.confidence = estimates.confidence
        message.num_scored_prompts = estimates.num_scored_prompts
        if estimates.reward_low is not None and estimates.reward_high is not None:
            message.reward_low, message.reward_high = estimates.reward_low, estimates.reward_high
        for each in estimates.pass_at:
            message.pass_at.add(
                k=each.k, value=each.value, low=each.low, high=each.high, num_prompts=each.num_prompts
            )
    return message


def _state_of(request: buffer_pb2.ListSamplesRequest) -> State | None:
    if not request.HasField("state"):
        return None
    if int(request.state) not in set(State):
        raise InvalidInputError(
            f"state {request.state} is not known: use one of {', '.join(State.__members__)}"
        )
    return State(request.state)


def record_of(row: SampleRow, kind: str = "", domain: str = "") -> buffer_pb2.SampleRecord:
    """A sample as people get it."""
    return buffer_pb2.SampleRecord(
        sample_id=row.sample_id,
        group_id=row.group_id,
        prompt_id=row.prompt_id,
        state=row.state.wire,
        reason=row.reason,
        reward=row.reward,
        num_response_tokens=row.num_response_tokens,
        finish_reason=types_pb2.FinishReason.Name(row.finish_reason),
        min_version=row.min_version,
        max_version=row.max_version,
        lineage=row.lineage,
        step=row.step,
        payload=types_pb2.BlobRef(id=row.payload_id, size_bytes=row.payload_bytes),
        updated_at=row.ended_at,
        purpose=row.purpose.wire,
        num_saved_tokens=row.num_saved_tokens,
        kind=kind,
        domain=domain,
    )
