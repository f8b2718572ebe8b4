"""Any interleaving of work, crashes, restores and steering: each sample ends once, and none is lost."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forklight_buffer.audit import audit_run
from forklight_buffer.curriculum.curriculum import Curriculum
from forklight_buffer.rehearsal import Rehearsal, Stage, rehearse, write_prompts
from forklight_buffer.states import Purpose
from forklight_core.redis_server import EmbeddedRedis
from forklight_core.runfile import RunFile
from services.buffer.tests.interleaved_world import WINDOWS, World

OPERATIONS: tuple[Callable[[World, int], Awaitable[None]], ...] = (
    World.work, World.work, World.work, World.work, World.open, World.open, World.open,
    World.step_on, World.step_on, World.step_on, World.step_on,
    World.take_task, World.submit, World.release_task,
    World.save_segment, World.save_segment, World.go_on, World.go_on, World.lose_segment, World.clean,
    World.take_scoring, World.judge, World.release_scoring,
    World.train, World.lose, World.save, World.commit, World.announce, World.journal, World.steer,
    World.restart_buffer, World.restart_trainer, World.restart_trainer, World.keep_redis,
    World.roll_redis_back, )  # fmt: skip


async def play_through(stage: Stage, moves: list[tuple[int, int]]) -> None:
    async with rehearse(stage) as play:
        play.buffer.context.ledger._db.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]
        world = World(play=play)
        await world.restart_trainer(0)
        await world.open(0)
        for at, (operation, number) in enumerate(moves):
            await OPERATIONS[operation](world, number)
            await world.check()
            if at % 4 == 0:
                await world.recount()
        await check_curriculum(play)
        await world.finish()
    report = audit_run(stage.folder, stage.redis_url)
    assert report.ok, report.to_table()
    assert (report.num_open, report.num_terminal) == (0, report.num_samples), report.to_table()


async def check_curriculum(play: Rehearsal) -> None:
    """Whatever happened to it, it stands where one stands that reads the ledger now."""
    order = play.buffer.order
    if not isinstance(order, Curriculum):
        return
    context, book = play.buffer.context, play.buffer.books[Purpose.TRAIN]
    other, standing = Curriculum(context, play.buffer.steering, book), await context.live.standing()
    picks = [await one.pick(range(900, 920), standing) for one in (order, other)]
    assert picks[0] == picks[1]
    order.look_again()


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    moves=st.lists(
        st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 100)), min_size=20, max_size=70
    )
)
def test_nothing_is_lost_and_nothing_twice_in_any_interleaving(
    server: EmbeddedRedis, moves: list[tuple[int, int]]
) -> None:
    with TemporaryDirectory() as folder:
        run_file = RunFile.model_validate(
            {
                "prompts": {
                    "train": str(write_prompts(Path(folder) / "train.jsonl", 5)),
                    "holdout": str(write_prompts(Path(folder) / "holdout.jsonl", 2)),
                },
                "sampling": {"group_size": 3},
                "length": {"windows": WINDOWS},
                "evaluation": {"every_versions": 1, "samples_per_prompt": 3},
                "trainer": {"groups_per_step": 2, "updates_per_version": 1, "steps": 1000},
                "buffer": {"max_staleness": 2, "lease_s": 600.0},
                "curriculum": {"on": len(moves) % 2 == 0},
            }
        )
        stage = Stage(
            redis_url=server.url, folder=Path(folder), run_file=run_file, run_id=f"t-{secrets.token_hex(6)}"
        )
        asyncio.run(play_through(stage, moves))
