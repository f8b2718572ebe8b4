"""What no single field can say: settings that contradict each other or the paper."""

from __future__ import annotations

from collections.abc import Iterator

from forklight_core.runfile.schema import RunFile

PAPER_MAX_UPDATES = 16
LARGEST_ADAM_EPS = 1e-12


def find_contradictions(run_file: RunFile) -> list[str]:
    """Every contradiction, each with the reason and the way out; empty when the run file makes sense."""
    problems = list(_impossible(run_file))
    if not run_file.recipe.allow_deviation:
        problems += [f"{problem}; set recipe.allow_deviation = true to do it anyway" for problem in _deviations(run_file)]
    return problems


def _impossible(run_file: RunFile) -> Iterator[str]:
    """Settings that cannot work together."""
    sampling, recipe, trainer, buffer = run_file.sampling, run_file.recipe, run_file.trainer, run_file.buffer
    if recipe.overlong_penalty and recipe.overlong_tokens > sampling.max_new_tokens:
        yield (
            f"recipe.overlong_tokens ({recipe.overlong_tokens}) must not exceed sampling.max_new_tokens "
            f"({sampling.max_new_tokens}): the soft zone lies inside the window; lower it or set overlong_penalty = false"
        )
    if buffer.min_scored_samples > sampling.group_size:
        yield (
            f"buffer.min_scored_samples ({buffer.min_scored_samples}) must not exceed sampling.group_size "
            f"({sampling.group_size}): no group could ever be trained on"
        )
    if buffer.max_open_groups < trainer.groups_per_step:
        yield (
            f"buffer.max_open_groups ({buffer.max_open_groups}) must be at least trainer.groups_per_step "
            f"({trainer.groups_per_step}): no batch could ever be filled"
        )
    if recipe.algorithm != "cispo" and (recipe.mask_eps_low is None or recipe.mask_eps_high is None):
        yield f"recipe.algorithm = {recipe.algorithm!r} needs recipe.mask_eps_low and recipe.mask_eps_high: it drops by mask"
    if run_file.evaluation.goal_reward is not None and not run_file.prompts.holdout:
        yield "evaluation.goal_reward needs prompts.holdout: without held-out prompts no round can reach it"


def _deviations(run_file: RunFile) -> Iterator[str]:
    """Settings under which the recipe is MiniMax-M1's in name only."""
    recipe, trainer = run_file.recipe, run_file.trainer
    if recipe.algorithm != "cispo":
        yield f"recipe.algorithm = {recipe.algorithm!r} drops tokens; the paper uses CISPO, which keeps all of them"
    elif recipe.mask_eps_low is not None or recipe.mask_eps_high is not None:
        yield "recipe.mask_eps_low and mask_eps_high drop tokens; CISPO has no token mask"
    elif recipe.eps_low < 1.0:
        yield f"recipe.eps_low = {recipe.eps_low} puts a lower bound on the ratio; CISPO has none (eps_low >= 1)"
    if recipe.kl_coefficient > 0.0:
        yield f"recipe.kl_coefficient = {recipe.kl_coefficient} adds a KL penalty; the paper has none"
    if (trainer.adam_beta1, trainer.adam_beta2) != (0.9, 0.95):
        yield f"trainer.adam_beta1, adam_beta2 = {trainer.adam_beta1}, {trainer.adam_beta2}; the paper uses 0.9, 0.95"
    if trainer.adam_eps > LARGEST_ADAM_EPS:
        yield f"trainer.adam_eps = {trainer.adam_eps} freezes weights whose gradients span 1e-18 to 1e-5; the paper uses 1e-15"
    if trainer.updates_per_version > PAPER_MAX_UPDATES:
        yield f"trainer.updates_per_version = {trainer.updates_per_version}; the paper does at most {PAPER_MAX_UPDATES}"
