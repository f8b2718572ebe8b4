"""Weights from a trainer to pods on one host, beside a memcpy of the same bytes.

    python services/trainer/bench/publish.py [--size small] [--pods 2] [--device cuda] [--check]

A trainer process holds the weights and writes versions into `--folder` (memory, by default); each pod is a
process with buffers of its own, and loads a version into them, every tensor proven. Measured are a full
version and deltas after 1 and after 16 AdamW updates at `--learning-rate`, each `--repeats` times after one
that is not counted (memory is touched for the first time there); the quickest counts.

`published` is what passes until the version may be announced, `loaded` what passes until every pod has it;
`sent` is one memcpy, by one thread, of the bytes that all pods get. With --check the exit code says whether
publishing and loading a full version took at most 1.5 times that, and a delta at most 15 % of the bytes.
Needs torch, numpy, safetensors and blake3, besides this checkout.
"""

# ruff: noqa: INP001
from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import paths  # noqa: F401
import torch
from published_weights import RUN_ID, Published, advance, forget, make_model, moves, publish
from report import Report

from forklight_core.weights.reading import Layer
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_rollout.adapters.filling import fill_tensors
from forklight_rollout.adapters.published import check_model
from forklight_rollout.weights.manifest import verify_weights
from forklight_trainer.publishing.plan import SinkManner

MOST_RATIO = 1.5
MOST_SHARE = 0.15
COPY_BYTES = 1 << 30
START_S = 600.0
LOAD_S = 600.0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=[name for name in SIZES if name != "minimax-m1"], default="small")
    parser.add_argument("--pods", type=int, default=2)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--folder", default="/dev/shm", help="where versions are written")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--lanes", type=int, default=0, help="threads of the trainer; 0: as many as cores, 16 at most"
    )
    parser.add_argument("--read-back", action="store_true", help='publication.verify = "read-back"')
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    report = Report(
        "publish", options.device, note=f"{options.size}, {options.pods} pods, {os.cpu_count()} cores"
    )
    root = Path(tempfile.mkdtemp(prefix="forklight-publish-", dir=options.folder))
    try:
        with pods_of(options) as pods:
            measure(options, report, root, pods)
    finally:
        shutil.rmtree(root)
    report.show()
    missed = [row.what for row in report.rows if row.ratio is not None and row.ratio < 1]
    if options.check and (missed or report.failed):
        sys.exit(f"missed: {', '.join([*missed, *report.failed])}")


def measure(options: argparse.Namespace, report: Report, root: Path, pods: Pods) -> None:
    """Every row of the table."""
    model = make_model(options.size, options.device)
    num_bytes = sum(parameter.nbytes for parameter in model.parameters())
    rates = {number: copy_rate(number) for number in (1, os.cpu_count() or 1)}
    sent_s = num_bytes * options.pods / rates[1]
    report.add("bytes of a full version", num_bytes / 1e9, "GB")
    for number, rate in rates.items():
        report.add(f"memcpy, {number} threads", rate / 1e9, "GB/s")
    report.add("sent: memcpy of what all pods get", sent_s, "s", notes="one thread")
    manner = SinkManner(num_lanes=options.lanes, reads_back=options.read_back)

    def write(version: int, base: tuple[Layer, ...]) -> Published:
        return publish(model, root, version, base, manner)

    full, loaded = repeat(options.repeats, lambda: write(0, ()), pods, root)
    add_rates(report, "full", full, loaded)
    report.add(
        "full: published and loaded / sent", (full.seconds + loaded.seconds) / sent_s, "x", at_most=MOST_RATIO
    )
    full = write(0, ())
    before = 0
    for num_updates in (1, 16):
        advance_to(model, options, before, num_updates)
        before = num_updates
        delta, loaded = repeat(options.repeats, lambda: write(1, full.layers), pods, root)
        label = f"delta, {num_updates} updates at {options.learning_rate:g}"
        report.add(f"{label}: share of the bytes", delta.share, "", at_most=MOST_SHARE)
        add_rates(report, label, delta, loaded)
    pods.require_equal(report, model)


def advance_to(model: HybridModel, options: argparse.Namespace, before: int, num_updates: int) -> None:
    """From where it is to where it is after so many updates."""
    moved = moves(options.learning_rate, num_updates, options.device)
    if before:
        moved -= moves(options.learning_rate, before, options.device)
    advance(model, moved)


def repeat(repeats: int, write: Callable[[], Published], pods: Pods, root: Path) -> tuple[Published, float]:
    """The quickest publication, and the quickest loading of it by all pods. The version stays no longer."""
    found, loaded = [], []
    for _ in range(repeats + 1):
        made = write()
        found.append(made)
        loaded.append(pods.load(made))
        forget(root, made.layers[0].manifest.version)
    return min(found[1:], key=lambda made: made.seconds), min(loaded[1:], key=lambda each: each.seconds)


def add_rates(report: Report, label: str, made: Published, loaded: Loaded) -> None:
    """Both times, with what the cores did in them: where that is little, something was waited for."""
    gigabytes = made.layers[0].manifest.num_bytes / 1e9
    for what, seconds, cpu_s in (
        ("published", made.seconds, made.cpu_s),
        ("loaded by every pod", loaded.seconds, loaded.cpu_s),
    ):
        notes = f"{gigabytes / seconds:.2f} GB/s; {cpu_s / gigabytes:.2f} core seconds a GB"
        report.add(f"{label}: {what}", seconds, "s", notes=notes)


def copy_rate(num_threads: int) -> float:
    """Bytes a second from one place of memory to another, both touched before."""
    source, target = (np.full(COPY_BYTES, value, np.uint8) for value in (1, 2))
    part = COPY_BYTES // num_threads

    def copy(place: int) -> None:
        span = slice(place * part, (place + 1) * part)
        np.copyto(target[span], source[span])

    best = 0.0
    for _ in range(5):
        threads = [threading.Thread(target=copy, args=(place,)) for place in range(num_threads)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, COPY_BYTES / (time.perf_counter() - started))
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """How long it took until every pod had a version."""

    seconds: float
    cpu_s: float
    """Of all cores, in the busiest pod."""


class Pods:
    """Processes that load what they are told."""

    def __init__(self, connections: list[Connection]) -> None:
        self._connections = connections

    def load(self, made: Published) -> Loaded:
        """Once the last one has it."""
        started = time.perf_counter()
        cpu_s = self._ask((made.path, made.layers[0].manifest_id, made.layers[0].manifest.version))
        seconds = time.perf_counter() - started
        return Loaded(seconds=seconds, cpu_s=max(each for each in cpu_s if isinstance(each, float)))

    def require_equal(self, report: Report, model: HybridModel) -> None:
        """The pods hold what the trainer holds, and not something else that was quick to load."""
        expected = digest(model)
        for number, found in enumerate(self._ask("digest")):
            report.require(f"pod {number} has the trainer's weights", found == expected)

    def _ask(self, what: object) -> list[object]:
        for connection in self._connections:
            connection.send(what)
        answers = []
        for connection in self._connections:
            if not connection.poll(LOAD_S):
                sys.exit("a pod does not answer")
            answers.append(connection.recv())
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if failures:
            raise failures[0]
        return answers


@contextmanager
def pods_of(options: argparse.Namespace) -> Iterator[Pods]:
    """Started afresh: a GPU's context does not survive a fork."""
    context, connections, processes = get_context("spawn"), [], []
    for number in range(options.pods):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve_pod, args=(theirs, options.size, options.device, number), daemon=True
        )
        process.start()
        processes.append(process)
        connections.append(ours)
    try:
        for connection in connections:
            if not connection.poll(START_S):
                sys.exit("a pod did not start")
            connection.recv()
        yield Pods(connections)
    finally:
        for process in processes:
            process.kill()
            process.join()


def serve_pod(connection: Connection, size: str, device: str, number: int) -> None:
    """A pod: buffers that were touched before, then whatever comes."""
    torch.set_num_threads(1)  # several processes that wait for each other's threads would measure that
    if device == "cuda":
        torch.cuda.set_device(number % torch.cuda.device_count())
    model = make_model(size, device)
    connection.send("ready")
    while True:
        asked = connection.recv()
        try:
            connection.send(digest(model) if asked == "digest" else load(model, *asked))
        except (RuntimeError, OSError, ValueError) as error:
            connection.send(error)


def load(model: HybridModel, path: str, manifest_id: str, version: int) -> float:
    """As `stage` fills the model it has made, the check of values included; seconds of all cores."""
    started = time.process_time()
    weights = verify_weights(Path(path), manifest_id, version=version, run_id=RUN_ID)
    fill_tensors(weights, model.state_dict())
    check_model(weights, model)
    return time.process_time() - started


def digest(model: HybridModel) -> list[int]:
    """Sums of bit patterns, tensor by tensor."""
    return [int(each.view(torch.int16).to(torch.int64).sum()) for each in model.parameters()]


if __name__ == "__main__":
    main()
