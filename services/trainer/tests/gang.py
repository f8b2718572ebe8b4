"""Starts the processes of a sharded trainer for a test, as torchrun would; reads what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from forklight_core.ports import free_ports
from forklight_model.checkpoint import load_model
from forklight_model.model import HybridModel
from services.trainer.tests.gang_rank import Job
from services.trainer.tests.start_rank import Start

DEADLINE_S = 240.0
ROOT = Path(__file__).resolve().parents[3]


def run_gang(
    folder: Path, jobs: Sequence[Job | Start], *, num_ranks: int, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """What each job found, by its name. All are of one kind."""
    script = "start_rank" if isinstance(jobs[0], Start) else "gang_rank"
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    (port,) = free_ports(1)
    logs = [folder / f"rank-{rank}.log" for rank in range(num_ranks)]
    with ExitStack() as stack:
        children = [
            subprocess.Popen(
                [sys.executable, "-m", f"services.trainer.tests.{script}", str(folder), device],
                cwd=ROOT,
                env=os.environ | _environment(rank, num_ranks, port),
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            codes = [child.wait(DEADLINE_S) for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
    assert codes == [0] * num_ranks, "\n".join(log.read_text()[-3000:] for log in logs)
    return {job.name: json.loads((folder / f"{job.name}.json").read_text()) for job in jobs}


def same_bits(folder: Path, wanted: HybridModel, dtype: torch.dtype) -> None:
    """What a `Start` wrote to its folder: what is stepped, and what is computed with."""
    exact = load_model(folder).state_dict()
    rounded = published(folder / "published")
    assert exact.keys() == rounded.keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(exact[name], tensor), name
        assert torch.equal(rounded[name], tensor.to(dtype)), name


def published(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def _environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",  # DeepSpeed calls what torch renames
        "MALLOC_MMAP_THRESHOLD_": "131072",  # memory that is let go is given back, and so is seen to be
    }
