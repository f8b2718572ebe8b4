"""CPU time of the buffer for opening and ending groups, by the order of the file and by a curriculum."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import median

from forklight_buffer.rehearsal import Stage, mixed_reward, rehearse, write_prompts
from forklight_core.redis_server import start_embedded
from forklight_core.runfile import RunFile

ROUNDS, GROUPS, SIZE = 5, 64, 16


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_prompts(folder / "train.jsonl", 20_000)
        with start_embedded(folder / "redis") as server:
            for again in range(2):
                for is_on in (False, True):
                    place = folder / f"{is_on}-{again}"
                    place.mkdir()
                    stage = Stage(
                        redis_url=server.url,
                        folder=place,
                        run_file=run_file(path, is_on),
                        run_id=place.name.lower(),
                    )
                    asyncio.run(passes(stage, "curriculum" if is_on else "file order"))


def run_file(path: Path, is_on: bool) -> RunFile:
    return RunFile.model_validate(
        {
            "prompts": {"train": str(path)},
            "sampling": {"group_size": SIZE, "max_new_tokens": 40960},
            "trainer": {"groups_per_step": GROUPS, "updates_per_version": 1},
            "buffer": {"max_open_groups": GROUPS, "max_staleness": ROUNDS},
            "curriculum": {"on": is_on},
        }
    )


async def passes(stage: Stage, name: str) -> None:
    opened, ended = [], []
    async with rehearse(stage) as play:
        await play.restore()
        for step in range(1, ROUNDS + 1):
            opened.append(await timed(play.open()) / GROUPS)
            await play.generate(most=GROUPS)
            await play.score(mixed_reward, most=GROUPS * SIZE)
            record = play.record(await play.batch(step))
            ended.append(await timed(play.commit(record)) / GROUPS)
    sys.stdout.write(
        f"{name:12} open {median(opened) * 1e6:7.0f} us a group (best {min(opened) * 1e6:.0f}), "
        f"commit {median(ended) * 1e6:7.0f} us a group (best {min(ended) * 1e6:.0f})\n"
    )
    sys.stdout.flush()


async def timed(work: Awaitable[object]) -> float:
    started = time.process_time()
    await work
    return time.process_time() - started


if __name__ == "__main__":
    main()
