"""The end of a run: its last version is evaluated before FINISHED, for a bounded time, and the trainer never
waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.app import buffer_journal
from forklight_buffer.audit import audit_run
from forklight_buffer.records import Commit, Control
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, rehearse
from forklight_buffer.states import Outcome, Phase, State
from forklight_core.errors import PreconditionError

MakeStage = Callable[..., Stage]
STEPS = 2


@pytest.fixture
def make_short(make_evaluated: MakeStage) -> MakeStage:
    """Two steps; rounds at every fifth version, so only version 0 and the last one have one."""

    def make(updates_per_version: int = 1, steps: int = STEPS, **evaluation: object) -> Stage:
        trainer = {"steps": steps, "groups_per_step": 2, "updates_per_version": updates_per_version}
        section = {"every_versions": 5, "final_wait_s": 60.0} | evaluation
        return make_evaluated(sections={"trainer": trainer}, **section)

    return make


def control_of(play: Rehearsal) -> Control:
    return play.buffer.context.ledger.control()


async def learn_all(play: Rehearsal) -> Commit:
    """Every step; as the trainer does it, the version of the last one is announced after its commit."""
    await play.restore()
    await play.announce(0)
    for step in range(1, STEPS + 1):
        await play.fill()
        await buffer_journal(play.buffer)()
        record = await play.train(step)
        if step < STEPS:
            await play.announce(step)
    return record


async def serve(play: Rehearsal, reward: float) -> None:
    """Pods and rewards do their work, and the buffer's loops theirs."""
    await play.open()
    await play.generate()
    await play.score(lambda sample: reward if "/e" in sample else mixed_reward(sample))
    await buffer_journal(play.buffer)()
    await play.buffer.last_round.look()


async def test_the_run_finishes_when_its_last_version_is_evaluated(make_short: MakeStage) -> None:
    stage = make_short()
    async with rehearse(stage) as play:
        await learn_all(play)
        control = control_of(play)
        assert (control.phase, control.step) == (Phase.DRAINING, STEPS)
        assert control.reason == (
            "all 2 steps are done; the run ends with the evaluation of version 2, within 60 s"
        )
        status = await play.buffer.inspection.status()
        assert status.is_last_evaluation
        assert await play.open() == 0  # version 2 is not announced yet
        assert play.buffer.context.ledger.open_groups() == []
        await play.announce(STEPS)
        assert [item.version for item in play.buffer.context.ledger.open_rounds()] == [STEPS]
        await serve(play, 0.75)
        control = control_of(play)
        assert (control.phase, control.reason) == (
            Phase.FINISHED, "all 2 steps are done, and version 2 is evaluated",
        )  # fmt: skip
        last = (await play.buffer.inspection.status()).evaluations[-1]
        assert (last.version, last.complete, last.mean_reward) == (STEPS, True, 0.75)
        assert await play.buffer.context.live.live_groups() == []
        assert audit_run(stage.folder, stage.redis_url).ok


async def test_training_ends_with_the_last_commit_and_what_is_late_is_dropped(make_short: MakeStage) -> None:
    async with rehearse(make_short()) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        await play.train(1)
        await play.announce(1)
        await play.open()
        leased = (await play.tasks.take("late", wait_s=0.0, max_items=1))[0]
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        await play.train(2)
        standing = await play.buffer.context.live.standing()
        assert (standing.open_groups, standing.ready_groups) == (0, 0)
        assert await play.submit(f"{group}/s000", leased.lease) is Outcome.DROPPED
        assert await play.tasks.heartbeat([leased.lease]) == []
        assert (await play.tasks.stats()).num_waiting == 0


async def test_a_version_published_before_the_last_step_is_the_last_one(make_short: MakeStage) -> None:
    async with rehearse(make_short(updates_per_version=3)) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        await buffer_journal(play.buffer)()
        for step in (1, 2):
            await play.train(step)
        assert control_of(play).phase is Phase.FINISHED  # the round of version 0 was complete before


async def test_the_run_finishes_and_says_so_when_nobody_serves_the_last_round(make_short: MakeStage) -> None:
    stage = make_short()
    async with rehearse(stage) as play:
        await learn_all(play)
        await play.announce(STEPS)
        await play.open()
        stage.clock.advance(59)
        await play.buffer.last_round.look()
        assert control_of(play).phase is Phase.DRAINING
        stage.clock.advance(2)
        await play.buffer.last_round.look()
        control = control_of(play)
        assert control.phase is Phase.FINISHED
        assert control.reason == (
            "all 2 steps are done; the evaluation of version 2 was not complete within 60 s "
            "(0 of 3 samples had ended)"
        )
        await buffer_journal(play.buffer)()
        last = (await play.buffer.inspection.status()).evaluations[-1]
        assert (last.version, last.complete, last.cut) == (STEPS, False, True)
        assert play.buffer.context.ledger.tallies()[(State.CANCELLED, "run_finished")] >= 3
        assert audit_run(stage.folder, stage.redis_url).ok


async def test_the_run_finishes_and_says_so_when_the_last_version_never_comes(make_short: MakeStage) -> None:
    stage = make_short()
    async with rehearse(stage) as play:
        await learn_all(play)
        stage.clock.advance(61)
        await play.buffer.last_round.look()
        control = control_of(play)
        assert control.phase is Phase.FINISHED
        assert "version 2 was not announced within 60 s and is not evaluated" in control.reason


@pytest.mark.parametrize(
    "evaluation", [{"final_wait_s": 0.0}, {"every_versions": 0}], ids=["no wait", "no rounds"]
)
async def test_the_run_finishes_at_once_when_no_last_round_is_wanted(
    make_short: MakeStage, evaluation: dict[str, float]
) -> None:
    async with rehearse(make_short(**evaluation)) as play:
        await learn_all(play)
        assert (control_of(play).phase, control_of(play).reason) == (Phase.FINISHED, "all 2 steps are done")


async def test_the_last_round_is_held_although_two_others_are_open(make_short: MakeStage) -> None:
    async with rehearse(make_short(every_versions=1)) as play:
        await play.restore()
        await play.announce(0)
        for step in (1, 2):
            await play.open()
            for leased in await play.tasks.take("rollout-0", wait_s=0.0, max_items=64):
                group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
                for index in range(2):
                    await play.submit(f"{group}/s{index:03d}", leased.lease)
            await play.score(mixed_reward)
            await play.train(step)
            await play.announce(step)
        assert [item.version for item in play.buffer.context.ledger.open_rounds()] == [0, 1, 2]
        assert (await play.buffer.inspection.status()).num_skipped_evaluations == 0
        await serve(play, 0.5)
        assert control_of(play).phase is Phase.FINISHED
        assert [item.complete for item in play.buffer.context.ledger.rounds(9)] == [True] * 3


async def test_the_goal_names_the_end_when_the_last_round_reaches_it(make_short: MakeStage) -> None:
    async with rehearse(make_short(goal_reward=0.7)) as play:
        await play.restore()
        await play.announce(0)
        await play.open()
        await play.generate()
        await play.score(lambda sample: 0.0 if "/e" in sample else mixed_reward(sample))
        await buffer_journal(play.buffer)()
        await play.train(1)
        await play.announce(1)
        await play.train(2)
        await play.announce(2)
        await serve(play, 0.8)
        assert "reached a mean reward of 0.8000, goal 0.7" in control_of(play).reason


async def test_a_restarted_buffer_goes_on_with_the_last_round_and_waits_anew(make_short: MakeStage) -> None:
    stage = make_short()
    async with rehearse(stage) as play:
        await learn_all(play)
        await play.announce(STEPS)
        await play.open()
    stage.clock.advance(3600)  # nobody could serve anything while the system was down
    async with rehearse(stage) as play:
        await play.buffer.resume_after_start()
        await play.buffer.last_round.look()
        assert control_of(play).phase is Phase.DRAINING
        restored = await play.restore(lineage="l0001", step=STEPS, version=STEPS)
        assert restored.lineage == "l0001"
        await play.announce(STEPS)
        await serve(play, 1.0)
        assert control_of(play).phase is Phase.FINISHED


async def test_run_control_of_a_run_that_is_being_evaluated(make_short: MakeStage) -> None:
    """`forklight resume` says RUNNING to whatever it finds; a person may end the wait, and nothing else."""
    async with rehearse(make_short()) as play:
        await learn_all(play)
        async with play.buffer.context.turn:
            assert await play.buffer.phases.set_phase(Phase.RUNNING, "") is Phase.DRAINING
            assert control_of(play).phase is Phase.DRAINING
            with pytest.raises(PreconditionError, match="has done its 2 steps"):
                await play.buffer.phases.set_phase(Phase.PAUSED, "later")
            assert await play.buffer.phases.set_phase(Phase.FINISHED, "enough") is Phase.FINISHED
        assert control_of(play).reason == "enough"


async def test_more_steps_or_an_older_checkpoint_make_the_run_go_on(make_short: MakeStage) -> None:
    stage = make_short()
    async with rehearse(stage) as play:
        await learn_all(play)
    longer = stage.run_file.model_copy(
        update={"trainer": stage.run_file.trainer.model_copy(update={"steps": 9})}
    )
    async with rehearse(stage.with_run_file(longer)) as play:
        await play.buffer.resume_after_start()
        assert (control_of(play).phase, control_of(play).reason) == (Phase.RUNNING, "")
    async with rehearse(stage) as play:
        async with play.buffer.context.turn:
            await play.buffer.last_round.end_when_done()
        assert control_of(play).phase is Phase.DRAINING
        await play.restore(lineage="l0001", step=1, version=1)
        assert control_of(play).phase is Phase.RUNNING
        assert (await play.lease(2)).batch is not None


async def test_a_run_without_held_out_prompts_ends_as_ever(make_stage: MakeStage) -> None:
    async with rehearse(make_stage(trainer={"steps": 1})) as play:
        await play.restore()
        await play.announce(0)
        await play.fill()
        await play.train(1)
        assert (control_of(play).phase, control_of(play).reason) == (Phase.FINISHED, "all 1 steps are done")
