"""One model over several GPUs, through NCCL: in bf16 each has the bits of one alone, in a CUDA graph too.

Alone: python -m pytest -m gpu libs/model/tests/gpu/test_gpu_parallel.py
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forklight_model.checkpoint import save_model
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
]

RANK = Path(__file__).parents[1] / "parallel_rank.py"
DEADLINE_S = 420
MOST_GPUS = 8


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the GPUs computed: `mini`'s layers with a key head for each of eight GPUs."""
    folder = tmp_path_factory.mktemp("parallel")
    world = max(size for size in (2, 4, MOST_GPUS) if size <= torch.cuda.device_count())
    torch.manual_seed(0)
    config = replace(SIZES["mini"], num_key_value_heads=8)
    save_model(HybridModel(config).to(torch.bfloat16), folder / "mini")
    job = {
        "name": "mini",
        "dtype": "bfloat16",
        "device": "cuda",
        "products": "torch",
        "sizes": [size for size in (2, 4, MOST_GPUS) if size <= world],
        "lengths": [1, 63, 200, 4500, 65],
        "num_steps": 70,
    }
    (folder / "jobs.json").write_text(json.dumps([job]))
    run_processes(folder, world)
    return folder


def run_processes(folder: Path, world: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = []
    for rank in range(world):
        command = [sys.executable, str(RANK), str(folder), str(rank), str(world)]
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stderr=log))
    try:
        codes = [process.wait(DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not any(codes), "\n".join((folder / f"{rank}.log").read_text() for rank in range(world))


def numbers(result: dict[str, Any]) -> list[Tensor]:
    return [*result["logits"], result["logprobs"], result["entropy"]]


@pytest.mark.parametrize("size", [2, 4, MOST_GPUS])
@pytest.mark.timeout(DEADLINE_S + 60)
def test_several_gpus_give_one_gpus_bits(results: Path, size: int) -> None:
    paths = sorted(results.glob(f"mini-{size}-*.pt"))
    if not paths:
        pytest.skip(f"{size} GPUs are not here")
    (alone,) = results.glob("mini-1-*.pt")
    expected = numbers(torch.load(alone))
    assert len(paths) == size and len(expected) == 2 + 2 * 70 + 2
    for path in paths:
        for step, (got, truth) in enumerate(zip(numbers(torch.load(path)), expected, strict=True)):
            assert torch.equal(got, truth), f"{path.name}, result {step}"
