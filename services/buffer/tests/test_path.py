"""The path of one batch, first through the domain, then through gRPC."""

from __future__ import annotations

from collections.abc import Callable

from forklight_buffer.rehearsal import Stage, rehearse, samples_of
from forklight_buffer.states import Phase, State


async def test_samples_are_trained_when_they_went_the_whole_path(make_stage: Callable[..., Stage]) -> None:
    async with rehearse(make_stage()) as play:
        restored = await play.restore()
        assert (restored.epoch, restored.lineage) == (1, "l0001")
        assert await play.announce(0) == 0
        assert await play.open() == 6  # (2 + 0 + 1) versions x 2 groups a step
        assert len(await play.generate()) == 12
        assert (await play.lease(1)).reason == "waiting for 2 more groups"
        assert len(await play.score(lambda sample: float(sample.endswith("0")))) == 12
        batch = await play.batch(1)
        assert len(samples_of(batch)) == 4
        assert batch == await play.batch(1)
        committed = await play.commit(play.record(batch))
        assert (committed.num_trained, committed.num_duplicates) == (4, 0)
        assert (await play.commit(play.record(batch))).num_duplicates == 4
        ledger = play.buffer.context.ledger
        assert ledger.tallies() == {(State.TRAINED, ""): 4}
        assert ledger.control().step == 1
        assert await play.open() == 0  # step 1 is learned, version 1 is not announced yet
        await play.announce(1)
        assert await play.open() == 2
        assert ledger.control().phase is Phase.RUNNING
