"""What people look up: search that follows the ledger, pages that stay what they were, groups as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer import inspection_search
from forklight_buffer.inspection_columns import Bounds, Columns, Order, sample_at
from forklight_buffer.lookups import Ended
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_core import ids
from forklight_core.errors import InvalidInputError, NotFoundError

MakeStage = Callable[..., Stage]
RUN = "r"
TRAINED = frozenset({10})


def ended(name: str, *, reward: float | None = 0.0, at: float = 0.0, length: int = 1) -> Ended:
    return Ended(f"{RUN}/{name}", reward, at, length, 1, "p", "", "math", 10, 1, 1)


def names_of(columns: Columns, order: Order, *, limit: int = 3) -> list[str]:
    """All hits, page by page."""
    found, after = list[str](), ""
    while True:
        hits = columns.find(Bounds(states=TRAINED), order, after, limit)
        found += hits.sample_ids
        after = hits.next
        if not after:
            return [name.partition("/")[2] for name in found]


def test_every_order_is_that_of_a_sort_whatever_is_equal() -> None:
    random = np.random.default_rng(5)
    rows = [
        ended(
            f"g{group:08d}/s{index:03d}",
            reward=None if random.random() < 0.2 else float(random.integers(0, 3)),
            at=float(random.integers(0, 9)),
            length=int(random.integers(1, 5)),
        )
        for group in range(12)
        for index in range(4)
    ]
    columns = Columns(RUN)
    columns.add([rows[at] for at in random.permutation(len(rows))], [""] * len(rows))
    worst = float("inf")
    keys: dict[Order, Callable[[Ended], float]] = {
        Order.NEWEST: lambda row: -row.ended_at,
        Order.OLDEST: lambda row: row.ended_at,
        Order.HIGHEST_REWARD: lambda row: worst if row.reward is None else -row.reward,
        Order.LOWEST_REWARD: lambda row: worst if row.reward is None else row.reward,
        Order.LONGEST: lambda row: -row.num_response_tokens,
        Order.SHORTEST: lambda row: row.num_response_tokens,
    }
    for order, key in keys.items():
        wanted = [
            row.sample_id.partition("/")[2] for row in sorted(rows, key=lambda row: (key(row), row.sample_id))
        ]
        assert names_of(columns, order) == wanted


def test_a_page_stays_what_it_was_while_samples_are_added() -> None:
    columns = Columns(RUN)
    columns.add([ended(f"g{at:08d}/s000", at=float(at)) for at in range(6)], [""] * 6)
    first = columns.find(Bounds(states=TRAINED), Order.NEWEST, "", 3)
    columns.add([ended(f"g{at:08d}/s000", at=float(at)) for at in range(6, 9)], [""] * 3)
    second = columns.find(Bounds(states=TRAINED), Order.NEWEST, first.next, 3)
    assert [*first.sample_ids, *second.sample_ids] == [f"{RUN}/g{at:08d}/s000" for at in (5, 4, 3, 2, 1, 0)]
    with pytest.raises(InvalidInputError, match="not the `next` of a page"):
        columns.find(Bounds(states=TRAINED), Order.NEWEST, "junk", 3)


def test_what_is_beyond_the_bound_is_the_oldest() -> None:
    columns = Columns(RUN)
    columns.add([ended(f"e{at:06d}-00003/s001", at=float(at)) for at in range(9)], [""] * 9)
    columns.keep_newest(2)
    assert (
        names_of(columns, Order.OLDEST) == ["e000007-00003/s001", "e000008-00003/s001"] and len(columns) == 2
    )
    assert sample_at(RUN, int(columns.column("place")[-1])) == f"{RUN}/e000008-00003/s001"


async def search(play: Rehearsal, **fields: object) -> buffer_pb2.SearchSamplesReply:
    request = buffer_pb2.SearchSamplesRequest(run_id=play.stage.run_id, **fields)  # type: ignore[arg-type]
    return await play.buffer.lookup.search_samples(request)


async def test_search_says_what_the_ledger_says_through_steps_and_rewinds(make_stage: MakeStage) -> None:
    async with rehearse(make_stage(in_memory=True, buffer={"max_staleness": 9})) as play:
        await play.restore()

        async def agree() -> int:
            rows = play.buffer.context.ledger.samples_named(
                [
                    row.sample_id
                    for row in play.buffer.context.ledger.samples_down(above="", below="~", limit=999)
                ]
            )
            reply = await search(play, limit=200, order=buffer_pb2.SAMPLE_ORDER_OLDEST)
            shown = sorted((each.sample_id, each.state, each.step) for each in reply.samples)
            assert shown == sorted((each.row.sample_id, int(each.row.state), each.row.step) for each in rows)
            assert reply.num_matching == reply.num_searched == reply.num_terminal == len(rows)
            return len(rows)

        assert await agree() == 0
        await play.fill(lambda sample: 1.0 if "g00000000" in sample else float(sample.endswith("0")))
        assert await agree() == 2
        for step in (1, 2, 3):
            await play.train(step)
            await agree()
        await play.restore(lineage="l0001", step=1)
        assert await agree() == 6
        await play.train(2)
        await play.fill()
        assert await agree() > 6
        await play.restart_buffer()
        await agree()


async def test_search_answers_while_it_reads_and_after_it_failed(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        await play.train(1)
        monkeypatch.setattr(inspection_search, "FIRST_WAIT_S", 0.0)
        first = await search(play)
        assert first.is_reading and first.num_terminal == 4
        async with asyncio.timeout(10):
            while (await search(play)).is_reading:  # each search waits for a turn of the reading
                pass
        assert (await search(play)).num_matching == 4
        with pytest.raises(InvalidInputError, match="cannot be searched together"):
            await search(play, states=[types_pb2.SAMPLE_STATE_TRAINED, types_pb2.SAMPLE_STATE_READY])
        with pytest.raises(InvalidInputError, match="not a group id"):
            await search(play, group_id="x")


async def test_a_group_is_shown_wherever_its_samples_are(make_stage: MakeStage) -> None:
    async with rehearse(make_stage(in_memory=True)) as play:
        await play.restore()
        await play.fill()
        await play.train(1)
        trained = await play.buffer.lookup.get_group(ids.training_group_id(play.stage.run_id, 0))
        assert (trained.is_over, trained.batch_step, trained.kind, trained.domain) == (
            True,
            1,
            "math",
            "math",
        )
        assert trained.prompt.endswith("+1?") and trained.samples[0].trajectory.pod == "rollout-0"
        assert [sample.verdict.score for sample in trained.samples] == [1.0, 0.0]
        ready = await play.buffer.lookup.get_group(ids.training_group_id(play.stage.run_id, 2))
        assert not ready.is_over and ready.samples[1].verdict.evidence == "compared"
        assert ready.samples[0].record.state == types_pb2.SAMPLE_STATE_READY
        with pytest.raises(NotFoundError, match="was never opened"):
            await play.buffer.lookup.get_group("r/g1")
        request = buffer_pb2.ListGroupsRequest(limit=4)
        page = await play.buffer.lookup.list_groups(request)
        rest = await play.buffer.lookup.list_groups(buffer_pb2.ListGroupsRequest(limit=4, after=page.next))
        found = [each.group_id[-2:] for each in (*page.groups, *rest.groups)]
        assert found == ["05", "04", "03", "02", "01", "00"] and rest.next == ""
