"""What people look up: samples by what they are like, a group with all that is known of it, the ledger."""

from __future__ import annotations

import asyncio

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer.context import Context
from forklight_buffer.inspection import record_of
from forklight_buffer.inspection_columns import Bounds, Order
from forklight_buffer.inspection_open import find_open
from forklight_buffer.inspection_search import SampleSearch, Search, domain_of
from forklight_buffer.journal import Journal
from forklight_buffer.live import LiveGroup, LiveSample
from forklight_buffer.lookups import Found
from forklight_buffer.reconcile import Books
from forklight_buffer.records import GroupRow, LeasedGroup
from forklight_buffer.rows import row_of_live
from forklight_buffer.segments import segment_message
from forklight_buffer.states import Purpose, State
from forklight_core import ids
from forklight_core.errors import InvalidInputError, NotFoundError
from forklight_core.wire import parse

MOST_AT_ONCE = 200
DEFAULT = 50
MOST_PROMPT_CHARACTERS = 256 * 1024
ENDLESS = 2**62


class Lookup:
    """Reads; journals what has ended first, so that no sample is missing between Redis and the ledger."""

    def __init__(self, context: Context, journal: Journal, books: Books, search: SampleSearch) -> None:
        self._context = context
        self._journal = journal
        self._books = books
        self._search = search

    async def close(self) -> None:
        """Before the ledger is closed."""
        await self._search.close()

    async def search_samples(self, request: buffer_pb2.SearchSamplesRequest) -> buffer_pb2.SearchSamplesReply:
        """A page of samples, terminal or open."""
        wanted = Search(
            bounds=_bounds(request),
            order=Order(request.order or Order.NEWEST),
            after=request.after,
            limit=min(request.limit or DEFAULT, MOST_AT_ONCE),
        )
        await self._journal.flush()
        ledger = self._context.ledger
        reply = buffer_pb2.SearchSamplesReply(num_terminal=await asyncio.to_thread(ledger.num_terminal))
        if min(wanted.bounds.states) < State.TRAINED:
            hits, found = await find_open(self._context, self._books, wanted)
        else:
            page = await self._search.search(wanted)
            hits = page.hits
            reply.num_searched, reply.is_reading = page.num_searched, page.is_reading
            named = await asyncio.to_thread(ledger.samples_named, hits.sample_ids)
            found = {each.row.sample_id: each for each in named}
        reply.samples.extend(self._record(found[name]) for name in hits.sample_ids if name in found)
        reply.next, reply.num_matching = hits.next, hits.num_matching
        reply.mean_reward, reply.mean_length = hits.mean_reward, hits.mean_length
        return reply

    def _record(self, found: Found) -> buffer_pb2.SampleRecord:
        row = found.row
        return record_of(row, found.kind, domain_of(self._books, row.prompt_id, row.purpose))

    async def get_group(self, group_id: str) -> buffer_pb2.GetGroupReply:
        """A group, wherever its samples are."""
        await self._journal.flush()
        ledger = self._context.ledger
        live = await self._context.live.read_group(group_id)
        row = await asyncio.to_thread(ledger.read_group, group_id)
        if row is None:
            raise NotFoundError(f"group {group_id[:200]!r} was never opened in run {self._context.run_id}")
        reply = self._group_of(row)
        reply.is_over = await asyncio.to_thread(ledger.is_over, group_id)
        leased = await asyncio.to_thread(ledger.leased_group, group_id)
        if leased is not None and leased.step >= 0:
            reply.batch_step = leased.step
        headers = _headers(leased)
        ended = {each.row.sample_id: each for each in await asyncio.to_thread(ledger.samples_of, [group_id])}
        for index in range(row.size):
            name = ids.sample_id(group_id, index)
            if name in ended:
                reply.samples.append(self._ended(ended[name], headers.get(name)))
            elif live is not None and index < len(live.samples):
                reply.samples.append(self._open(live, live.samples[index], row.kind))
        return reply

    def _group_of(self, row: GroupRow) -> buffer_pb2.GetGroupReply:
        book = self._books.get(row.purpose)
        prompt = None if book is None else book.by_id(row.prompt_id)
        return buffer_pb2.GetGroupReply(
            group_id=row.group_id,
            prompt_id=row.prompt_id,
            kind=row.kind,
            domain="" if prompt is None else prompt.traits.domain,
            purpose=row.purpose.wire,
            window_tokens=row.window,
            opened_version=row.opened_version,
            opened_at=row.opened_at,
            redrive_of=row.redrive_of,
            prompt=None if prompt is None else prompt.text[:MOST_PROMPT_CHARACTERS],
        )

    def _ended(self, found: Found, header: types_pb2.BatchSample | None) -> buffer_pb2.GroupSample:
        sample = buffer_pb2.GroupSample(record=self._record(found))
        if header is not None:
            sample.trajectory.CopyFrom(header.trajectory)
            sample.verdict.score = header.reward
            sample.verdict.parts.extend(header.parts)
        return sample

    def _open(self, group: LiveGroup, live: LiveSample, kind: str) -> buffer_pb2.GroupSample:
        found = Found(row=row_of_live(group, live), kind=kind)
        sample = buffer_pb2.GroupSample(
            record=self._record(found), segments=map(segment_message, live.segments)
        )
        if live.trajectory:
            sample.trajectory.CopyFrom(parse(types_pb2.Trajectory, live.trajectory))
        if live.verdict:
            sample.verdict.CopyFrom(parse(types_pb2.Verdict, live.verdict))
        return sample

    async def list_groups(self, request: buffer_pb2.ListGroupsRequest) -> buffer_pb2.ListGroupsReply:
        """A page of training groups."""
        limit = min(request.limit or DEFAULT, MOST_AT_ONCE)
        if request.after and not request.after.isdigit():
            raise InvalidInputError(f"after {request.after[:80]!r} is not the `next` of a page of groups")
        await self._journal.flush()
        ledger, below = self._context.ledger, int(request.after or ENDLESS)
        groups = await asyncio.to_thread(
            ledger.groups_down, below=below, prompt_id=request.prompt_id, limit=limit + 1
        )
        page = groups[:limit]
        samples: dict[str, list[Found]] = {row.group_id: [] for row, _ in page}
        for found in await asyncio.to_thread(ledger.samples_of, list(samples)):
            samples[found.row.group_id].append(found)
        reply = buffer_pb2.ListGroupsReply(next=str(page[-1][0].index) if len(groups) > limit else "")
        for row, is_over in page:
            reply.groups.add(
                group_id=row.group_id,
                prompt_id=row.prompt_id,
                kind=row.kind,
                domain=domain_of(self._books, row.prompt_id, Purpose.TRAIN),
                opened_version=row.opened_version,
                opened_at=row.opened_at,
                size=row.size,
                is_over=is_over,
                samples=map(self._record, samples[row.group_id]),
            )
        return reply

    async def read_ledger(self, request: buffer_pb2.ReadLedgerRequest) -> buffer_pb2.ReadLedgerReply:
        """What is final, the newest first."""
        limit = min(request.limit or DEFAULT, MOST_AT_ONCE)
        lineage, _, step = request.after.partition(":")
        if request.after and not step.isdigit():
            raise InvalidInputError(f"after {request.after[:80]!r} is not the `next` of a page of commits")
        after = (lineage, int(step)) if step else None
        reply = await asyncio.to_thread(self._read_ledger, after, limit)
        for step_held, group_ids in sorted((await self._context.live.batches()).items()):
            reply.batches.add(step=step_held, num_groups=len(group_ids))
        return reply

    def _read_ledger(self, after: tuple[str, int] | None, limit: int) -> buffer_pb2.ReadLedgerReply:
        ledger = self._context.ledger
        page = ledger.commits_down(after=after, limit=limit)
        reply = buffer_pb2.ReadLedgerReply(num_commits=page.num_commits, num_conflicts=ledger.num_conflicts())
        for commit in page.commits:
            reply.commits.add(
                lineage=commit.lineage,
                step=commit.step,
                batch_id=commit.batch_id,
                num_samples=commit.num_samples,
                at=commit.at,
                stands=commit.stands,
            )
        if page.has_more:
            reply.next = f"{page.commits[-1].lineage}:{page.commits[-1].step}"
        times = ledger.lineage_times()
        for name, line in sorted(ledger.lineages().items(), reverse=True)[:limit]:
            reply.lineages.add(
                lineage=name, parent=line.parent, forked_at=line.forked_at, at=times.get(name, 0.0)
            )
        _add_changes(reply, self._context, limit)
        return reply


def _add_changes(reply: buffer_pb2.ReadLedgerReply, context: Context, limit: int) -> None:
    for back in context.ledger.taken_back(limit):
        reply.rollbacks.add(
            epoch=back.epoch,
            from_lineage=back.from_lineage,
            first_step=back.first_step,
            last_step=back.last_step,
            became=back.became,
            num_samples=back.num_samples,
            at=back.at,
        )
    for conflict in context.ledger.conflicts_down(limit):
        reply.conflicts.add(
            sample_id=conflict.sample_id,
            kept=conflict.kept.wire,
            refused=conflict.refused.wire,
            detail=conflict.detail,
            at=conflict.at,
        )


def _headers(leased: LeasedGroup | None) -> dict[str, types_pb2.BatchSample]:
    if leased is None:
        return {}
    body = parse(types_pb2.BatchGroup, leased.body)
    return {sample.trajectory.envelope.sample_id: sample for sample in body.samples}


def _bounds(request: buffer_pb2.SearchSamplesRequest) -> Bounds:
    known = {int(state) for state in State}
    states = frozenset(int(state) for state in request.states) or frozenset(
        s for s in known if s >= State.TRAINED
    )
    if unknown := states - known:
        raise InvalidInputError(
            f"state {min(unknown)} is not known: use one of {', '.join(State.__members__)}"
        )
    if len({state >= State.TRAINED for state in states}) > 1:
        raise InvalidInputError(
            "open and terminal states cannot be searched together: ask for one, then the other"
        )
    if int(request.order) not in {0, *Order}:
        raise InvalidInputError(
            f"order {request.order} is not known: use one of {', '.join(Order.__members__)}"
        )

    def given(name: str) -> bool:
        return request.HasField(name)

    return Bounds(
        states=states,
        reward=(
            request.reward_min if given("reward_min") else None,
            request.reward_max if given("reward_max") else None,
        ),
        length=(
            request.length_min if given("length_min") else None,
            request.length_max if given("length_max") else None,
        ),
        step=(
            request.step_min if given("step_min") else None,
            request.step_max if given("step_max") else None,
        ),
        kind=request.kind,
        domain=request.domain,
        reason=request.reason,
        group_id=request.group_id,
        prompt_id=request.prompt_id,
        finish_reason=int(request.finish_reason),
        purpose=int(request.purpose),
    )
