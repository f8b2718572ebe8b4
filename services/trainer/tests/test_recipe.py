"""The recipe gate: what the paper forbids is refused with a reason, admitted deviations become warnings."""

from __future__ import annotations

import subprocess
import sys

import pytest

from forklight_core.errors import ConfigError
from forklight_core.runfile.schema import RunFile
from forklight_trainer.recipe import check_recipe

FITTING: dict[str, dict[str, object]] = {
    "sampling": {"max_new_tokens": 256},
    "trainer": {"pack_tokens": 1024},
    "recipe": {"overlong_tokens": 64},
}


def run_file(**changes: dict[str, object]) -> RunFile:
    sections = {name: FITTING.get(name, {}) | changes.get(name, {}) for name in {*FITTING, *changes}}
    return RunFile.model_validate(sections)


def test_check_recipe_when_defaults_returns_no_deviation() -> None:
    assert check_recipe(run_file()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": {"eps_low": 0.2, "eps_high": 0.2}}, "PPO's symmetric clip"),
        ({"recipe": {"eps_low": 0.5}}, "no lower bound"),
        ({"recipe": {"eps_high": 0.28}}, "PPO's and not CISPO's"),
        ({"recipe": {"kl_coefficient": 0.001}}, "no KL term"),
        ({"recipe": {"mask_eps_low": 0.2, "mask_eps_high": 0.2}}, "keeps every token"),
        ({"recipe": {"algorithm": "grpo", "mask_eps_low": 0.2, "mask_eps_high": 0.3}}, "symmetrically"),
        ({"recipe": {"algorithm": "dapo", "mask_eps_low": 0.2, "mask_eps_high": 0.2}}, "clips higher"),
        ({"trainer": {"adam_eps": 1e-8}}, "freezes most weights"),
        ({"trainer": {"adam_beta2": 0.999}}, "0.9, 0.95"),
        ({"trainer": {"updates_per_version": 32}}, "at most 16"),
        ({"buffer": {"dynamic_sampling": False}}, "dynamic_sampling = true"),
        ({"sampling": {"top_p": 0.9}}, "top_p = 1"),
    ],
)
def test_check_recipe_when_paper_is_contradicted_refuses_unless_admitted(
    changes: dict[str, dict[str, object]], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        check_recipe(run_file(**changes))
    assert "allow_deviation" in str(refusal.value)
    admitted = {**changes, "recipe": {**changes.get("recipe", {}), "allow_deviation": True}}
    assert any(reason.split("'", maxsplit=1)[0] in line for line in check_recipe(run_file(**admitted)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": {"algorithm": "grpo"}}, "mask_eps_low or recipe.mask_eps_high is missing"),
        ({"recipe": {"mask_eps_low": 0.2}}, "only one of"),
        ({"trainer": {"pack_tokens": 256}}, "pack_tokens"),
        ({"recipe": {"overlong_tokens": 257}}, "overlong_tokens"),
        ({"sampling": {"group_size": 1}}, "group_size"),
    ],
)
def test_check_recipe_when_run_cannot_work_refuses_in_any_case(
    changes: dict[str, dict[str, object]], reason: str
) -> None:
    admitted = {**changes, "recipe": {**changes.get("recipe", {}), "allow_deviation": True}}
    with pytest.raises(ConfigError, match=reason):
        check_recipe(run_file(**admitted))


@pytest.mark.parametrize(("name", "low", "high"), [("grpo", 0.2, 0.2), ("dapo", 0.2, 0.28)])
def test_check_recipe_when_masked_algorithm_is_admitted_names_only_that(
    name: str, low: float, high: float
) -> None:
    recipe = {"algorithm": name, "mask_eps_low": low, "mask_eps_high": high, "allow_deviation": True}
    assert [line.split(" ")[2] for line in check_recipe(run_file(recipe=recipe))] == [f"'{name}'"]


def test_recipe_when_imported_does_not_load_torch() -> None:
    code = "import sys, forklight_trainer.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
