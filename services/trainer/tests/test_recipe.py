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
        (
            {"recipe": {"schedule": [{"from_step": 9, "eps_high": 3.0}, {"from_step": 20, "eps_high": 0.2}]}},
            "entry from_step = 20: eps_high = 0.2 is a ceiling of 1.2",
        ),
        (
            {"recipe": {"schedule": [{"from_window": 300, "eps_high": 6.0}]}},
            "entry from_window = 300: eps_high rises from 4 to 6",
        ),
        (
            {
                "recipe": {
                    "schedule": [{"from_step": 2, "grad_clip": 0.5}, {"from_step": 3, "grad_clip": 0.7}]
                }
            },
            "entry from_step = 3: grad_clip rises from 0.5 to 0.7",
        ),
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
        ({"length": {"windows": [256, 2048]}}, "largest of length.windows = 2048 and a prompt"),
        ({"length": {"windows": [16, 32]}}, "overlong_tokens = 64 is longer than the largest of length.w"),
        (
            {"recipe": {"schedule": [{"from_step": 5, "combined_token_share": 0.2}]}},
            "entry from_step = 5: combined_token_share = 0.2 says nothing where normalization = 'token'",
        ),
        (
            {
                "recipe": {
                    "schedule": [
                        {"from_step": 5, "normalization": "combined", "combined_token_share": 0.2},
                        {"from_window": 300, "normalization": "sample", "combined_token_share": 0.1},
                    ]
                }
            },
            "entry from_window = 300: combined_token_share",
        ),
        (
            {
                "recipe": {
                    "algorithm": "grpo",
                    "mask_eps_low": 0.2,
                    "mask_eps_high": 0.2,
                    "schedule": [{"from_step": 5, "eps_high": 2.0}],
                }
            },
            "entry from_step = 5: eps_high = 2 bounds a weight that recipe.algorithm = 'grpo' does not",
        ),
    ],
)
def test_check_recipe_when_run_cannot_work_refuses_in_any_case(
    changes: dict[str, dict[str, object]], reason: str
) -> None:
    admitted = {**changes, "recipe": {**changes.get("recipe", {}), "allow_deviation": True}}
    with pytest.raises(ConfigError, match=reason):
        check_recipe(run_file(**admitted))


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([{"eps_high": 1.0}], r"recipe\.schedule\.0\n.*give from_step or from_window"),
        (
            [{"from_step": 1, "from_window": 9, "eps_high": 1.0}],
            "give from_step or from_window, and not both",
        ),
        ([{"from_step": 1}], "the entry from_step = 1 changes nothing"),
        ([{"from_window": 9, "over_steps": 5, "eps_high": 1.0}], "the entry from_window = 9 has over_steps"),
        (
            [{"from_step": 9, "over_steps": 5, "normalization": "sample"}],
            "the entry from_step = 9 has over_steps and no number",
        ),
        (
            [
                {"from_step": 9, "eps_high": 3.0},
                {"from_window": 5, "grad_clip": 1.0},
                {"from_step": 9, "eps_high": 2.0},
            ],
            "the entry from_step = 9 stands after the entry from_step = 9",
        ),
        (
            [{"from_window": "2Ki", "eps_high": 3.0}, {"from_window": 512, "eps_high": 2.0}],
            "the entry from_window = 512 stands after the entry from_window = 2048",
        ),
        ([{"from_step": 0, "eps_high": 1.0}], "greater than or equal to 1"),
        ([{"from_step": 1, "eps_high": 0.0}], "greater than 0"),
        ([{"from_step": 1, "grad_clip": float("inf")}], "finite"),
        ([{"from_step": 1, "combined_token_share": 1.5}], "less than or equal to 1"),
        ([{"from_step": 1, "normalization": "tokens"}], "'token', 'sample' or 'combined'"),
        ([{"from_step": 1, "eps_low": 1.0}], r"schedule\.0\.eps_low\n.*not permitted"),
    ],
)
def test_schedule_when_an_entry_makes_no_sense_is_refused_by_name(
    entries: list[dict[str, object]], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        RunFile.model_validate({"recipe": {"schedule": entries}})


def test_check_recipe_when_stages_are_the_papers_late_ones_returns_no_deviation() -> None:
    schedule = [
        {"from_step": 100, "over_steps": 50, "eps_high": 2.0},
        {"from_window": 200, "normalization": "combined", "grad_clip": 0.5},
        {"from_window": 300, "combined_token_share": 0.3, "grad_clip": 0.25, "learning_rate": 5e-7},
    ]
    assert check_recipe(run_file(recipe={"schedule": schedule})) == []


@pytest.mark.parametrize(("name", "low", "high"), [("grpo", 0.2, 0.2), ("dapo", 0.2, 0.28)])
def test_check_recipe_when_masked_algorithm_is_admitted_names_only_that(
    name: str, low: float, high: float
) -> None:
    recipe = {"algorithm": name, "mask_eps_low": low, "mask_eps_high": high, "allow_deviation": True}
    assert [line.split(" ")[2] for line in check_recipe(run_file(recipe=recipe))] == [f"'{name}'"]


def test_recipe_when_imported_does_not_load_torch() -> None:
    code = "import sys, forklight_trainer.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
