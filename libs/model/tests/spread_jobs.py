"""Runs the processes of spread training steps for the tests, and puts together what they computed.

A job spread over processes names the job of one process that it must agree with.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from libs.model.tests.spread_rank import Job

RANK = Path(__file__).parent / "spread_rank.py"
Stored = dict[str, Any]


def run_jobs(folder: Path, jobs: Sequence[Job], world: int, deadline_s: float) -> None:
    """All jobs, by `world` processes that are started once."""
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    strict = ["-W", "error"] if jobs[0].device == "cpu" else []
    processes = []
    for rank in range(world):
        command = [sys.executable, *strict, str(RANK), str(folder), str(rank), str(world)]
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stderr=log))
    try:
        codes = [process.wait(deadline_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not any(codes), "\n".join((folder / f"{rank}.log").read_text() for rank in range(world))


def computed(folder: Path, job: Job) -> list[Stored]:
    """By each process."""
    if job.world == 1:
        return [torch.load(path) for path in folder.glob(f"{job.name}-[0-9].pt")]
    return [torch.load(folder / f"{job.name}-{rank}.pt") for rank in range(job.world)]


def gradients(results: list[Stored], job: Job) -> dict[str, Tensor]:
    """Of whole parameters: what all processes say of them is added up, experts in their order."""
    groups = [results[first : first + job.experts] for first in range(0, job.world, job.experts)]
    total: dict[str, Tensor] = {}
    for group in groups:
        for name in group[0]["gradients"]:
            parts = [result["gradients"][name] for result in group]
            whole = torch.cat(parts) if ".experts." in name else torch.stack(parts).sum(dim=0)
            total[name] = total[name] + whole if name in total else whole
    return total


def activations(results: list[Stored], pack: int, what: str) -> list[Tensor]:
    """Of a pack's tokens, layer after layer: slice after slice, without padding."""
    parts = [result["packs"][pack] for result in results if pack in result["packs"]]
    num_tokens = len(parts[0]["logprobs"])
    return [torch.cat(slices)[:num_tokens] for slices in zip(*(part[what] for part in parts), strict=True)]
