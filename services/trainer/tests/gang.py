"""Starts the processes of a sharded trainer for a test, as torchrun would, and reads what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from forklight_core.ports import free_ports
from services.trainer.tests.gang_rank import Job

DEADLINE_S = 240.0


def run_gang(
    folder: Path, jobs: Sequence[Job], *, num_ranks: int, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """What each job found, by its name."""
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    (port,) = free_ports(1)
    logs = [folder / f"rank-{rank}.log" for rank in range(num_ranks)]
    with ExitStack() as stack:
        children = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("gang_rank.py")), str(folder), device],
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


def _environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",  # DeepSpeed calls what torch renames
    }
