"""steps.jsonl: what a line holds, and that a resumed curve has no doubles."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forklight_core.runfile import RunFile
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.metrics import record_step
from forklight_trainer.steps.records import append_record, build_record, truncate_records
from forklight_trainer.steps.step import PolicyState, step_settings, train_step

Maker = Any


def test_record_when_written_has_every_figure_and_null_for_nan(
    tmp_path: Path, make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    batch = fetch_batch(maker.batch(1), maker.blobs, "test-run").batch
    assert batch is not None
    engine = TorchEngine(make_model(0), OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0))
    policy = PolicyState(
        version=0, is_published=True, contract=batch.samples[0].contract, find_version=lambda version: None
    )
    outcome = train_step(engine, batch, step_settings(RunFile()), policy)
    record = build_record(outcome, step=1, version=0, window=40, seconds={"train": 0.5, "lease": 0.1})
    record_step(record)
    append_record(tmp_path / "steps.jsonl", record)
    line = json.loads((tmp_path / "steps.jsonl").read_text())
    assert line["num_samples"] == 12
    assert line["tokens_per_s"] == line["tokens"] / 0.5
    assert line["reward_mean"] == 0.5
    assert line["length_p50"] <= line["length_p99"]
    assert line["learning_rate"] == 1e-6
    assert (line["parity_version"], line["router_auxiliary_loss"]) == (0, None)
    assert 0 <= line["unequal_tokens"] <= line["parity_tokens"]
    for name in ("entropy", "loss", "grad_norm", "ratio_mean", "clip_share_high", "masked_share", "mean_kl"):
        assert math.isfinite(line[name]), name


def test_truncate_records_when_resumed_drops_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step":1}\n{"step":2}\n{"step":3}\n{"step":2,"to')
    assert truncate_records(path, 2) == 2
    assert path.read_text() == '{"step":1}\n{"step":2}\n'
    assert truncate_records(path, 0) == 0
    assert path.read_text() == ""
    assert truncate_records(tmp_path / "missing.jsonl", 5) == 0
