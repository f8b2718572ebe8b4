"""One engine over two GPUs draws what one on one GPU draws, bit for bit, and ends when a process is lost.

Alone: python -m pytest -m gpu tests/gpu/test_one_engine_over_gpus.py
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from forklight_model.parity import SELF_TEST
from forklight_rollout.adapters.native import NativeEngine, NativeOptions, native_engine_factory
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.ranks_scenario import play, publish

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
]

CONFIG = dataclasses.replace(
    SELF_TEST, num_hidden_layers=3, attn_type_list=(0, 1, 0), max_position_embeddings=4096
)
PROMPT = tuple(7 + index * 13 % 590 for index in range(1300))  # more than one piece of prefill
WISH = MemoryWish(max_batch=4, max_prompt_tokens=1330, max_new_tokens=64, budget_bytes=2**31)
LEADER = Path(__file__).parents[2] / "services" / "rollout" / "tests" / "ranks_leader.py"
START_S = 120.0
END_S = 60.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[PublishedWeights]:
    root = tmp_path_factory.mktemp("weights")
    return [publish(root, CONFIG, version) for version in (0, 1)]


def make_engine(weights: PublishedWeights, num_gpus: int) -> NativeEngine:
    options = NativeOptions(dtype="bfloat16", device="cuda", num_gpus=num_gpus)
    engine = native_engine_factory(WISH, options)(weights)
    assert isinstance(engine, NativeEngine)
    return engine


def test_two_gpus_draw_what_one_draws(weights: list[PublishedWeights]) -> None:
    found = []
    for num_gpus in (1, 2):
        engine = make_engine(weights[0], num_gpus)
        try:
            assert engine.numeric_mode.is_parity, engine.numeric_mode.reason
            found.append((engine._pool.num_pages, dataclasses.asdict(play(engine, weights[1], PROMPT))))
        finally:
            engine.close()
    assert found[0] == found[1]
    assert set(found[0][1]["versions"][51]) == {0, 1}


def test_a_lost_process_ends_the_leader_with_the_reason(weights: list[PublishedWeights]) -> None:
    """The leader waits for a GPU then, in a message that never comes; and it has to come to its exit."""
    manifest = weights[0].folder / "manifest.json"
    command = [sys.executable, str(LEADER), str(manifest), weights[0].manifest_id, "cuda"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as leader:  # type: ignore[call-overload]
        start = threading.Timer(START_S, leader.kill)  # else a leader that never starts is waited for
        start.start()
        try:
            os.kill(int(leader.stdout.readline()), signal.SIGKILL)
            start.cancel()
            _, said = leader.communicate(timeout=END_S)
        finally:
            start.cancel()
            leader.kill()
    assert leader.returncode == 1
    assert "process 1 on GPU 1" in said and "was ended by SIGKILL" in said
