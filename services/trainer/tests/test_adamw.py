"""AdamW with epsilon 1e-15, on the real engine: gradients from 1e-18 to 1e-5 move weights by what float64
says, in fp32 whatever the model's dtype; and no run file gets another epsilon by accident.

Tolerance: weights start at 0, so twenty fp32 additions of steps that are right to 2e-7 leave 3e-6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from forklight_core.errors import ConfigError
from forklight_core.runfile import dump_run_file, load_run_file
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine, optimizer_settings
from forklight_trainer.recipe import check_recipe
from services.trainer.tests.transcription import adamw

RATE = 1e-3
PAPER = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
CUSTOMARY = dataclasses.replace(PAPER, eps=1e-8)
MAGNITUDES = (1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-12, 1e-9, 1e-7, 1e-5)
NO_CLIP = 1e9


def weights_after(
    engine: TorchEngine, model: HybridModel, rows: np.ndarray, *, start: float = 0.0
) -> list[float]:
    """The first weights of the head after these gradients, one row a step; everything else stands still."""
    with torch.no_grad():
        model.lm_head.weight.fill_(start)
    for row in rows:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        head = model.lm_head.weight
        assert head.grad is not None
        head.grad.view(-1)[: len(row)] = torch.from_numpy(row).float()
        engine.update(learning_rate=RATE, grad_clip=NO_CLIP)
        engine.discard_gradients()
    return model.lm_head.weight.detach().view(-1)[: rows.shape[1]].double().tolist()


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("eps", [1e-15, 1e-8])
def test_update_when_gradients_are_of_any_size_is_float64s(
    make_model: Callable[[int], HybridModel], magnitude: float, eps: float
) -> None:
    chance = np.random.default_rng(0)
    rows = magnitude * (1.0 + 0.3 * np.clip(chance.normal(size=(20, 32)), -3, 3))
    rows = rows.astype(np.float32).astype(np.float64)
    model = make_model(0)
    engine = TorchEngine(model, dataclasses.replace(PAPER, eps=eps))
    expected = adamw([0.0] * 32, rows.tolist(), rate=RATE, eps=eps)
    assert weights_after(engine, model, rows) == pytest.approx(expected, rel=3e-6, abs=0.0)


def test_update_when_sizes_are_mixed_moves_each_weight_as_if_alone(
    make_model: Callable[[int], HybridModel],
) -> None:
    model, chance = make_model(0), np.random.default_rng(1)
    rows = np.array(MAGNITUDES) * (1.0 + 0.3 * np.clip(chance.normal(size=(20, len(MAGNITUDES))), -3, 3))
    rows = rows.astype(np.float32).astype(np.float64)
    expected = adamw([0.0] * len(MAGNITUDES), rows.tolist(), rate=RATE, eps=1e-15)
    found = weights_after(TorchEngine(model, PAPER), model, rows)
    assert found == pytest.approx(expected, rel=3e-6, abs=0.0)


@pytest.mark.parametrize(("settings", "share"), [(PAPER, 1 / 11), (CUSTOMARY, 1e-8)])
def test_first_update_when_a_gradient_is_1e_16_moves_by_gradient_over_gradient_plus_epsilon(
    make_model: Callable[[int], HybridModel], settings: OptimizerSettings, share: float
) -> None:
    rows = np.full((1, 4), 1e-16)
    model = make_model(0)
    found = weights_after(TorchEngine(model, settings), model, rows)
    assert found == pytest.approx([-RATE * share] * 4, rel=1e-6, abs=0.0)
    # A weight of usual size shows the one and not the other: its spacing in fp32 is 2e-9.
    model = make_model(0)
    moved = weights_after(TorchEngine(model, settings), model, rows, start=0.02)[0] != float(np.float32(0.02))
    assert moved == (settings is PAPER)


def test_update_when_the_loss_is_halved_depends_on_epsilon(
    make_model: Callable[[int], HybridModel],
) -> None:
    """Why the normaliser is part of the algorithm: gradients near epsilon are not scale invariant."""
    rows = np.tile(np.array([[1e-16, 1e-5]]), (20, 1))
    found = {}
    for scale in (1.0, 0.5):
        model = make_model(0)
        found[scale] = weights_after(TorchEngine(model, PAPER), model, scale * rows)
    tiny, usual = (found[0.5][place] / found[1.0][place] for place in (0, 1))
    assert tiny == pytest.approx((0.5 / 10.5) / (1.0 / 11.0), rel=1e-5)
    assert usual == pytest.approx(1.0, rel=1e-6)


def test_update_when_the_model_is_bf16_adds_up_below_its_spacing(
    make_model: Callable[[int], HybridModel],
) -> None:
    """Below 1.0 bf16 values are 2^-8 apart: a step of 1e-3 is nothing to them, and two are more than half."""
    master = make_model(0)
    engine = TorchEngine(master, PAPER, dtype=torch.bfloat16)
    computed = engine._compute.lm_head.weight
    assert (computed.dtype, master.lm_head.weight.dtype) == (torch.bfloat16, torch.float32)
    with torch.no_grad():
        master.lm_head.weight.fill_(1.0)
        computed.fill_(1.0)
    seen = []
    for _ in range(4):
        for parameter in master.parameters():
            parameter.grad = torch.full_like(parameter, 1e-5)
        engine.update(learning_rate=1e-3, grad_clip=NO_CLIP)
        seen.append((master.lm_head.weight[0, 0].item(), computed[0, 0].item()))
    assert [value for value, _ in seen] == pytest.approx([0.999, 0.998, 0.997, 0.996], abs=1e-6)
    # 0.998 is already nearer to 1 - 2^-8 = 0.99609 than to 1: 1 - 2^-9 is 0.99805.
    assert [value for _, value in seen] == [1.0, 0.99609375, 0.99609375, 0.99609375]


@pytest.mark.parametrize("written", ["1e-15", "1.0e-15", "0.000000000000001", '"1e-15"', "1E-15"])
def test_epsilon_when_written_in_any_way_reaches_the_optimizer_as_that_number(
    tmp_path: Path, make_model: Callable[[int], HybridModel], written: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"[trainer]\nadam_eps = {written}\n")
    for _ in range(2):  # as a person wrote it, and as it is kept with a checkpoint
        run_file = load_run_file(path)
        engine = TorchEngine(make_model(0), optimizer_settings(run_file.trainer))
        eps = engine._optimizer.param_groups[0]["eps"]
        assert (type(eps), eps) == (float, 1e-15)
        assert check_recipe(run_file) == []
        path.write_text(dump_run_file(run_file))


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("1e-8", "freezes most weights"),
        ('"1e-8"', "freezes most"),
        ("0", "greater than 0"),
        ('"tiny"', "valid number"),
        ("true", "valid|greater|freezes"),
        ("nan", "greater"),
        ("inf", "freezes"),
    ],
)
def test_epsilon_when_it_is_another_or_none_is_refused(tmp_path: Path, written: str, problem: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"[trainer]\nadam_eps = {written}\n")
    with pytest.raises(ConfigError, match=rf"adam_eps.*({problem})"):
        check_recipe(load_run_file(path))
