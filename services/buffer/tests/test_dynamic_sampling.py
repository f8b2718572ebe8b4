"""Dynamic sampling as a property of a whole run: whatever the rewards are, every batch is full, every group
in it has something to learn from, and every group that has not is filtered and replaced.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse
from forklight_buffer.states import State
from forklight_core import ids

NUM_STEPS, GROUPS_PER_STEP, GROUP_SIZE = 6, 2, 4


def rewards_of(seed: int, share_equal: float) -> Callable[[str], float]:
    """Rewards by sample: this share of the groups has equal ones."""

    def reward(sample: str) -> float:
        chance = random.Random(f"{seed} {ids.group_of(sample)}")
        same = chance.choice([0.0, 1.0, -0.25])
        if chance.random() < share_equal:
            return same
        odd = chance.randrange(GROUP_SIZE)
        return same + 0.5 if ids.sample_index(sample) == odd else same

    return reward


async def batch_of(play: Rehearsal, step: int, reward: Callable[[str], float]) -> types_pb2.Batch:
    """The batch of a step, however many groups have to be opened for it."""
    for _ in range(200):
        leasing = await play.lease(step)
        if leasing.batch is not None:
            return leasing.batch
        await play.fill(reward)
    raise AssertionError(f"no batch for step {step} after 200 rounds of groups")


@pytest.mark.parametrize(("seed", "share_equal"), [(0, 0.0), (1, 0.3), (2, 0.7), (3, 0.9)])
async def test_batches_when_many_groups_have_equal_rewards_are_full_and_hold_none_of_them(
    make_stage: Callable[..., Stage], seed: int, share_equal: float
) -> None:
    reward = rewards_of(seed, share_equal)
    stage = make_stage(
        in_memory=True,
        sampling={"group_size": GROUP_SIZE},
        trainer={"groups_per_step": GROUPS_PER_STEP},
        buffer={"max_staleness": 1000},
    )
    trained: set[str] = set()
    async with rehearse(stage) as play:
        await play.restore()
        for step in range(1, NUM_STEPS + 1):
            batch = await batch_of(play, step, reward)
            assert [len(group.samples) for group in batch.groups] == [GROUP_SIZE] * GROUPS_PER_STEP
            for group in batch.groups:
                found = {sample.reward for sample in group.samples}
                assert len(found) > 1, f"{group.group_id} has only {found}"
                trained |= {sample.trajectory.envelope.sample_id for sample in group.samples}
            await play.commit(play.record(batch))
        await play.buffer.journal.flush()
        tallies = play.buffer.context.ledger.tallies()
    assert tallies.pop((State.TRAINED, "")) == len(trained) == NUM_STEPS * GROUPS_PER_STEP * GROUP_SIZE
    num_filtered = tallies.pop((State.FILTERED, "all_equal"), 0)
    assert num_filtered % GROUP_SIZE == 0
    assert (num_filtered > 0) == (share_equal > 0)
    assert not tallies
