"""Whether a run file is the paper's recipe, in every stage of it. Torch-free: the command line asks it too.

Two kinds of findings: what cannot work at all is always refused; what contradicts MiniMax-M1 is refused
unless `recipe.allow_deviation` says it is meant, and then it comes back as a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from forklight_core.errors import ConfigError
from forklight_core.runfile import largest_window
from forklight_core.runfile.schema import RecipeSection, RunFile
from forklight_core.runfile.sections.recipe import ScheduleEntry
from forklight_trainer.loss.schedules import RecipeAt, schedule_of, settled_stages

PAPER_BETAS = (0.9, 0.95)
LARGEST_ADAM_EPS = 1e-12
LARGEST_PPO_CLIP = 0.3
MOST_UPDATES_PER_VERSION = 16


def check_recipe(run_file: RunFile) -> list[str]:
    """The deviations a run file asks for and admits; ConfigError for those it does not admit."""
    impossible = [*_impossible(run_file), *_impossible_lengths(run_file), *_impossible_stages(run_file)]
    deviations = [
        *_loss_deviations(run_file),
        *_stage_deviations(run_file),
        *_optimizer_deviations(run_file),
        *_sampling_deviations(run_file),
    ]
    refused = impossible if run_file.recipe.allow_deviation else impossible + deviations
    if refused:
        raise ConfigError(_refusal(refused, can_deviate=not impossible))
    return deviations


def _refusal(problems: list[str], *, can_deviate: bool) -> str:
    lines = [
        "the run file contradicts the MiniMax-M1 recipe:" if can_deviate else "the run file cannot work:"
    ]
    lines += [f"  - {problem}" for problem in problems]
    if can_deviate:
        lines.append("  If this is meant, set recipe.allow_deviation = true.")
    return "\n".join(lines)


def _impossible(run_file: RunFile) -> Iterator[str]:
    recipe = run_file.recipe
    masks = (recipe.mask_eps_low, recipe.mask_eps_high)
    if recipe.algorithm != "cispo" and None in masks:
        yield (
            f"recipe.algorithm = {recipe.algorithm!r} drops tokens by the unified mask, and "
            "recipe.mask_eps_low or recipe.mask_eps_high is missing: set both, e.g. 0.2 and 0.2 (grpo) or "
            "0.2 and 0.28 (dapo)"
        )
    if (recipe.mask_eps_low is None) != (recipe.mask_eps_high is None):
        yield "only one of recipe.mask_eps_low and recipe.mask_eps_high is set: a mask needs both"
    if run_file.sampling.group_size < 2:
        yield "sampling.group_size = 1 has no advantage (a group of one has no spread): use 2 or more"


def _impossible_lengths(run_file: RunFile) -> Iterator[str]:
    recipe, pack_tokens, largest = run_file.recipe, run_file.trainer.pack_tokens, largest_window(run_file)
    name = "the largest of length.windows" if run_file.length.windows else "sampling.max_new_tokens"
    if largest >= pack_tokens:
        yield (
            f"{name} = {largest} and a prompt do not fit into trainer.pack_tokens = {pack_tokens}: raise "
            "trainer.pack_tokens above the longest prompt plus that window"
        )
    if recipe.overlong_penalty and recipe.overlong_tokens > largest:
        yield (
            f"recipe.overlong_tokens = {recipe.overlong_tokens} is longer than {name} = {largest}, so every "
            "response would be punished: lower recipe.overlong_tokens"
        )


def _stages(run_file: RunFile) -> Iterator[tuple[ScheduleEntry, RecipeAt, RecipeAt]]:
    """Every entry of the schedule, with the values before it and those it settles at."""
    settled = settled_stages(schedule_of(run_file))
    yield from zip(run_file.recipe.schedule, settled, settled[1:], strict=False)


def _impossible_stages(run_file: RunFile) -> Iterator[str]:
    """Values that nobody would ever read."""
    algorithm = run_file.recipe.algorithm
    for entry, _, stage in _stages(run_file):
        if entry.eps_high is not None and algorithm != "cispo":
            yield (
                f"recipe.schedule, entry {entry.start}: eps_high = {entry.eps_high:g} bounds a weight that "
                f"recipe.algorithm = {algorithm!r} does not bound: remove it"
            )
        if entry.combined_token_share is not None and stage.normalization != "combined":
            yield (
                f"recipe.schedule, entry {entry.start}: combined_token_share = "
                f"{entry.combined_token_share:g} says nothing where normalization = "
                f"{stage.normalization!r}: give normalization = 'combined' too, or remove it"
            )


def _loss_deviations(run_file: RunFile) -> Iterator[str]:
    recipe = run_file.recipe
    if recipe.algorithm == "cispo":
        yield from _cispo_deviations(recipe)
    else:
        yield (
            f"recipe.algorithm = {recipe.algorithm!r} drops tokens by a mask; the paper's is 'cispo', "
            "which keeps all"
        )
    if recipe.algorithm == "grpo" and recipe.mask_eps_low != recipe.mask_eps_high:
        yield (
            "recipe.algorithm = 'grpo' clips symmetrically, and recipe.mask_eps_low and "
            "recipe.mask_eps_high differ: set them equal, or call it 'dapo'"
        )
    if recipe.algorithm == "dapo" and (recipe.mask_eps_high or 0.0) <= (recipe.mask_eps_low or 0.0):
        yield (
            "recipe.algorithm = 'dapo' clips higher than lower: set recipe.mask_eps_high above "
            "recipe.mask_eps_low"
        )
    if recipe.kl_coefficient > 0:
        yield (
            f"recipe.kl_coefficient = {recipe.kl_coefficient:g}: the paper has no KL term; set "
            "recipe.kl_coefficient = 0"
        )


def _stage_deviations(run_file: RunFile) -> Iterator[str]:
    """The paper's late stages only ever lower the ceiling and the clip, and no ceiling becomes PPO's."""
    for entry, before, stage in _stages(run_file):
        for name, old, new in (
            ("eps_high", before.eps_high, stage.eps_high),
            ("grad_clip", before.grad_clip, stage.grad_clip),
        ):
            if old is not None and new is not None and new > old:
                yield (
                    f"recipe.schedule, entry {entry.start}: {name} rises from {old:g} to {new:g}, and the "
                    "paper lowers it in late stages: lower it, or leave it"
                )
        if entry.eps_high is not None and entry.eps_high <= LARGEST_PPO_CLIP:
            yield (
                f"recipe.schedule, entry {entry.start}: eps_high = {entry.eps_high:g} is a ceiling of "
                f"{1 + entry.eps_high:g}, PPO's and not CISPO's: stay above {LARGEST_PPO_CLIP:g}"
            )


def _cispo_deviations(recipe: RecipeSection) -> Iterator[str]:
    if recipe.eps_low == recipe.eps_high and recipe.eps_high <= LARGEST_PPO_CLIP:
        yield (
            f"recipe.eps_low = recipe.eps_high = {recipe.eps_high:g} is PPO's symmetric clip, not CISPO: "
            "set recipe.eps_low = 1.0 and recipe.eps_high = 4.0 (a ceiling of 5), or recipe.algorithm = "
            "'grpo' with a mask"
        )
    elif recipe.eps_low < 1.0:
        yield (
            f"recipe.eps_low = {recipe.eps_low:g} bounds the weight from below at {1 - recipe.eps_low:g}: "
            "CISPO has no lower bound; set recipe.eps_low = 1.0"
        )
    elif recipe.eps_high <= LARGEST_PPO_CLIP:
        yield (
            f"recipe.eps_high = {recipe.eps_high:g} is a ceiling of {1 + recipe.eps_high:g}, PPO's and not "
            "CISPO's (4 to 8 work alike): set recipe.eps_high = 4.0"
        )
    if recipe.mask_eps_low is not None or recipe.mask_eps_high is not None:
        yield (
            "recipe.mask_eps_low and recipe.mask_eps_high drop tokens, and CISPO keeps every token: remove "
            "them, or set recipe.algorithm = 'grpo' or 'dapo'"
        )


def _optimizer_deviations(run_file: RunFile) -> Iterator[str]:
    trainer = run_file.trainer
    if trainer.adam_eps > LARGEST_ADAM_EPS:
        yield (
            f"trainer.adam_eps = {trainer.adam_eps:g}: gradients span 1e-18 to 1e-5, so an epsilon above "
            f"{LARGEST_ADAM_EPS:g} freezes most weights; set trainer.adam_eps = 1e-15"
        )
    if (trainer.adam_beta1, trainer.adam_beta2) != PAPER_BETAS:
        yield (
            f"trainer.adam_beta1, adam_beta2 = {trainer.adam_beta1:g}, {trainer.adam_beta2:g}: the paper's "
            "are 0.9, 0.95"
        )
    if trainer.updates_per_version > MOST_UPDATES_PER_VERSION:
        yield (
            f"trainer.updates_per_version = {trainer.updates_per_version}: the paper takes at most "
            f"{MOST_UPDATES_PER_VERSION} off-policy updates a generation batch; lower it"
        )


def _sampling_deviations(run_file: RunFile) -> Iterator[str]:
    if not run_file.buffer.dynamic_sampling:
        yield (
            "buffer.dynamic_sampling = false: groups of equal rewards have no advantage and dilute the step; "
            "set buffer.dynamic_sampling = true"
        )
    if run_file.sampling.top_p < 1.0:
        yield (
            f"sampling.top_p = {run_file.sampling.top_p:g} cuts the distribution the ratio is measured "
            "against; set sampling.top_p = 1"
        )
