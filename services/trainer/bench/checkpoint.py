"""What a checkpoint costs: how long the loop stands still for the copy, and what the write beside it takes.

    python services/trainer/bench/checkpoint.py [--size nano] [--device cpu] [--folder DIR] [--threads 1]

The state is a model's weights and both Adam moments in fp32, as one rank owns them. `copy` is what the loop
waits for (the first one also allocates the host memory; on a GPU it pins it), `write` is file, flush and
hash in a thread, `verify` what a restart reads first, `read` the way back. `steps beside` is what matrix
products on the same device take while a checkpoint is written, over what they take alone. Needs torch,
safetensors and blake3.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paths  # noqa: F401
import torch
from torch import Tensor

from forklight_model.model import HybridModel
from forklight_model.parts import PartsReader, StateKey
from forklight_model.sizes import SIZES
from forklight_trainer.checkpoints.manifest import verify_checkpoint, write_manifest
from forklight_trainer.checkpoints.parts import StatePart
from forklight_trainer.checkpoints.snapshot import HostBuffers, RankSnapshot


def draw_state(size: str, device: str) -> list[StatePart]:
    """Random weights of a size, and moments as large."""
    with torch.device(device):
        model = HybridModel(SIZES[size], is_initialized=False)
    generator = torch.Generator(device).manual_seed(0)
    parts = []
    for name, parameter in model.named_parameters():
        values = parameter.detach().reshape(-1)
        for key in StateKey:
            drawn = (
                values.normal_(generator=generator) if key is StateKey.WEIGHT else torch.randn_like(values)
            )
            parts.append(StatePart(name=name, key=key, shape=tuple(parameter.shape), start=0, values=drawn))
    return parts


def seconds_of(call: Callable[[], object], device: str) -> float:
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def hold(buffers: HostBuffers, parts: list[StatePart]) -> RankSnapshot:
    return RankSnapshot(parts=buffers.hold(parts), adam_step=1, random={}, buffers=buffers)


def products(device: str) -> Callable[[], None]:
    """A stretch of arithmetic, about half a second of it on a laptop's core."""
    rows = 8192 if device == "cuda" else 768
    matrix = torch.randn(rows, rows, device=device)

    def multiply() -> None:
        for _ in range(8):
            matrix @ matrix
        synchronize(device)

    return multiply


def slowdown(write: Callable[[], None], device: str) -> float:
    """How much longer products take while the write runs: their mean during it over the median alone."""
    multiply = products(device)
    alone = statistics.median(seconds_of(multiply, device) for _ in range(5))
    thread = threading.Thread(target=write)
    thread.start()
    beside = [seconds_of(multiply, device)]
    while thread.is_alive():
        beside.append(seconds_of(multiply, device))
    thread.join()
    return statistics.mean(beside) / alone


def read_back(folder: Path) -> Iterator[Tensor]:
    with PartsReader(folder) as reader:
        for name in reader.shapes:
            for key in StateKey:
                yield reader.read(name, key)


def row(what: str, seconds: list[float], num_bytes: int) -> None:
    median = statistics.median(seconds)
    spread = f"{min(seconds):.3f} to {max(seconds):.3f}" if len(seconds) > 1 else "once"
    print(f"| {what} | {median:.3f} s | {spread} | {num_bytes / median / 2**30:.2f} GiB/s |", flush=True)


def measure_once(buffers: HostBuffers, parts: list[StatePart], folder: Path, device: str) -> dict[str, float]:
    """One checkpoint, there and back."""
    snapshots: list[RankSnapshot] = []
    seconds = {"copy": seconds_of(lambda: snapshots.append(hold(buffers, parts)), device)}
    seconds["write"] = seconds_of(lambda: snapshots[0].write(folder), device)
    write_manifest(folder)
    seconds["verify"] = seconds_of(lambda: verify_checkpoint(folder), device)
    seconds["read"] = seconds_of(lambda: [None for _ in read_back(folder)], device)
    buffers.release()
    shutil.rmtree(folder)
    return seconds


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    device = arguments.device
    parts, buffers = draw_state(arguments.size, device), HostBuffers()
    num_bytes = sum(part.values.nbytes for part in parts)
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {arguments.threads} threads"
    print(f"{arguments.size} on {name}: {num_bytes / 2**30:.2f} GiB of state in {len(parts)} parts")
    print("| what | median | spread | rate |\n| --- | --- | --- | --- |")
    row("copy, the first", [seconds_of(lambda: hold(buffers, parts), device)], num_bytes)
    buffers.release()
    rounds = [measure_once(buffers, parts, folder / "step-1", device) for _ in range(arguments.repeats)]
    for what in rounds[0]:
        row(what, [seconds[what] for seconds in rounds], num_bytes)
    snapshot = hold(buffers, parts)
    factor = slowdown(lambda: snapshot.write(folder / "step-2"), device)
    print(f"| steps beside a write | {factor:.2f} x | - | - |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[name for name in SIZES if name != "minimax-m1"], default="nano")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; a temporary folder by default"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(arguments, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
