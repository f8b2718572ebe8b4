"""A cold start over two processes that share everything goes on from a checkpoint that one process wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forklight_core.ports import free_ports
from forklight_core.runfile import RunFile, dump_run_file
from forklight_model.checkpoint import load_model, save_model
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_model.tokenizer import build_character_tokenizer
from forklight_trainer.sft.events import Event, SftProgress
from forklight_trainer.sft.stage import SftOptions, run_sft

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

DEADLINE_S = 240.0
NUM_STEPS = 6


def write_run(folder: Path, **trainer: object) -> RunFile:
    config = replace(SIZES["nano"], num_hidden_layers=2, attn_type_list=(0, 1), num_local_experts=2)
    model = HybridModel(config, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(0))
    build_character_tokenizer().save(folder / "start")
    save_model(model, folder / "start")
    lines = [{"prompt": f"{i}+{i}=", "response": f"{i}{i}\\boxed{{{2 * i}}}"} for i in range(11)]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = str(folder / "data.jsonl")
    sft = {"steps": NUM_STEPS, "batch_size": 6, "pack_tokens": 40, "checkpoint_every_steps": 0}
    return RunFile.model_validate(
        {
            "model": {"path": str(folder / "start")},
            "trainer": {"threads": 1} | trainer,
            "sft": {"demonstrations": data, "holdout": data, "holdout_every_steps": 3} | sft,
        }
    )


def run_gang(run_file: RunFile, out: Path) -> list[dict[str, object]]:
    """Events of the first process."""
    folder, (port,) = out.parent, free_ports(1)
    (folder / "run.toml").write_text(dump_run_file(run_file))
    command = [
        sys.executable,
        "-m",
        "forklight_cli.cold_start",
        str(folder / "run.toml"),
        str(out),
        "--resume",
    ]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"FORKLIGHT_DEVICE": "cpu", "PYTHONWARNINGS": "ignore"}  # DeepSpeed calls what torch renames
    with ExitStack() as stack:
        children = []
        for rank in ("0", "1"):
            files = [stack.enter_context((folder / f"{rank}.{name}").open("wb")) for name in ("out", "log")]
            environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
            children.append(subprocess.Popen(command, env=environment, stdout=files[0], stderr=files[1]))
        try:
            codes = [child.wait(DEADLINE_S) for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
    assert codes == [0, 0], "".join((folder / f"{rank}.log").read_text()[-3000:] for rank in "01")
    assert (folder / "1.out").read_bytes() == b""
    return [json.loads(line) for line in (folder / "0.out").read_text().splitlines()]


def test_a_stage_goes_on_over_two_processes_as_it_would_over_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone, cut = write_run(tmp_path), SftOptions(device="cpu")
    losses: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, SftProgress):
            losses.append(event.loss)

    def stop_in_the_middle(event: Event) -> None:
        if isinstance(event, SftProgress) and event.step == NUM_STEPS // 2:
            cut.stop.set()

    whole = run_sft(alone, tmp_path / "whole", listen, SftOptions(device="cpu"))
    run_sft(alone, tmp_path / "cut", stop_in_the_middle, cut)
    shared = write_run(tmp_path, engine="deepspeed", processes=2, zero_stage=3)
    events = run_gang(shared, tmp_path / "cut")
    steps = [event for event in events if event["event"] == "step"]
    assert [step["step"] for step in steps] == list(range(NUM_STEPS // 2 + 1, NUM_STEPS + 1))
    assert [step["loss"] for step in steps] == pytest.approx(losses[NUM_STEPS // 2 :], abs=1e-5)
    assert events[-1]["holdout_loss"] == pytest.approx(whole.holdout_loss, abs=1e-5)
    ours, theirs = (load_model(tmp_path / name).state_dict() for name in ("whole", "cut"))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-4, msg=name)
