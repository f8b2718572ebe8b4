"""One process of a sharded trainer that only starts, for the tests: as gang_rank.py is called.

FOLDER/jobs.json is a list of `Start`s. The first process writes what all of them hold to FOLDER/<name> (a
checkpoint, and published weights in its folder `published`), and to FOLDER/<name>.json the most memory that a
process took.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from forklight_core.runfile import RunFile
from forklight_trainer.adapters.deepspeed.engine import DeepSpeedEngine, follow
from forklight_trainer.adapters.deepspeed.gang import Gang, join_gang
from forklight_trainer.adapters.deepspeed.library import import_deepspeed
from forklight_trainer.adapters.deepspeed.rank import RankEngine
from forklight_trainer.adapters.deepspeed.start import own_half
from forklight_trainer.publishing.plan import SinkPlan
from services.trainer.tests.gang_rank import Job, learn


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A run that starts."""

    name: str
    zero_stage: int
    expert_parallel: int = 1
    dtype: str = "float32"
    seed: int = 0
    path: str = ""
    """A model folder; without one fresh weights of size nano."""
    restores: str = ""
    """A checkpoint that is taken over then, before anything else. The run goes on from it for two steps."""

    def run_file(self, num_ranks: int) -> RunFile:
        trainer = {
            "engine": "deepspeed",
            "processes": num_ranks,
            "zero_stage": self.zero_stage,
            "expert_parallel": self.expert_parallel,
        }
        model = {"path": self.path, "dtype": self.dtype} if self.path else {"dtype": self.dtype}
        return RunFile.model_validate({"run": {"seed": self.seed}, "model": model, "trainer": trainer})


def main(folder: Path, device: str) -> None:
    torch.set_num_threads(1)
    gang = join_gang(device)
    import_deepspeed()
    for entry in json.loads((folder / "jobs.json").read_text()):
        job = Start(**entry)
        gc.collect()
        dist.barrier()
        before, _ = _memory()
        Path("/proc/self/clear_refs").write_text("5")
        own = own_half(job.run_file(gang.size), gang)
        gc.collect()
        now, peak = _memory()
        figures = _largest(gang, {"kept": now - before, "peak": peak - before})
        if gang.rank:
            follow(own)
        else:
            _write(own, job, folder)
            (folder / f"{job.name}.json").write_text(json.dumps(figures))
        del own
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort a process that takes its time to end


def _write(own: RankEngine, job: Start, folder: Path) -> None:
    engine, target = DeepSpeedEngine(own, folder), folder / job.name
    (target / "published").mkdir(parents=True)
    if job.restores:
        engine.restore(Path(job.restores))
    snapshot = engine.snapshot()
    snapshot.write(target)
    snapshot.release()
    (target / "config.json").write_text(json.dumps(engine.config.to_published()))
    engine.publish(SinkPlan(folder=target / "published"))
    if job.restores:
        like = Job(name=job.name, zero_stage=job.zero_stage)
        for seed in range(2):
            learn(engine, like, seed)
            (target / f"after-{seed}").mkdir()
            engine.publish(SinkPlan(folder=target / f"after-{seed}"))
    engine.dismiss()


def _memory() -> tuple[float, float]:
    """Bytes that this process has in memory, and the most since the last reset."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (float(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def _largest(gang: Gang, own: dict[str, float]) -> dict[str, float]:
    every: list[dict[str, float]] = [{}] * gang.size
    dist.all_gather_object(every, own, group=gang.control)
    return {name: max(each[name] for each in every) for name in own}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
