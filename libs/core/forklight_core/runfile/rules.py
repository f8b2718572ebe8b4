"""What no single field can say: settings of different sections that can never work together.

Whether the recipe is the paper's is not asked here but by `forklight_trainer.recipe`.
"""

from __future__ import annotations

from collections.abc import Iterator

from forklight_core.runfile.schema import RunFile


def find_contradictions(run_file: RunFile) -> Iterator[str]:
    """Every contradiction, with the reason."""
    sampling, trainer, buffer = run_file.sampling, run_file.trainer, run_file.buffer
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
    tools = run_file.tools
    if len(set(tools.names)) != len(tools.names):
        yield f"tools.names names a tool twice: {', '.join(tools.names)}"
    if tools.names and tools.max_output_tokens >= sampling.max_new_tokens:
        yield (
            f"tools.max_output_tokens ({tools.max_output_tokens}) must be below sampling.max_new_tokens "
            f"({sampling.max_new_tokens}): one call could fill the whole response"
        )
    if run_file.evaluation.goal_reward is not None and not run_file.prompts.holdout:
        yield "evaluation.goal_reward needs prompts.holdout: without held-out prompts no round can reach it"
