"""What no single field can say: settings of different sections that can never work together.

Whether the recipe is the paper's is not asked here but by `forklight_trainer.recipe`.
"""

from __future__ import annotations

from collections.abc import Iterator

from forklight_core.runfile.schema import RunFile
from forklight_core.runfile.sections.steering import AlarmSection
from forklight_core.runfile.windows import first_window, largest_window


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
    if tools.names and tools.max_output_tokens >= first_window(run_file):
        yield (
            f"tools.max_output_tokens ({tools.max_output_tokens}) must be below {_name_of_first(run_file)} "
            f"({first_window(run_file)}): one call could fill the whole response"
        )
    yield from _impossible_policies(run_file)
    yield from _windows_that_do_not_fit(run_file)
    yield from _roll_backs_out_of_reach(run_file)
    yield from _impossible_evaluations(run_file)
    yield from _impossible_cold_starts(run_file)
    yield from _impossible_judges(run_file)
    yield from _impossible_curricula(run_file)


def _impossible_policies(run_file: RunFile) -> Iterator[str]:
    """What a model of transformers cannot do, and settings that ask for two models."""
    model, parity, trainer, rollout = run_file.model, run_file.parity, run_file.trainer, run_file.rollout
    if model.chat is not None and not (model.hf or model.path):
        yield "model.chat is set for a fresh model, whose tokenizer has turn markup of its own: remove it"
    if not model.hf:
        return
    if model.path:
        yield "model.path and model.hf are both set: a run starts from one folder"
    wants = {
        "parity.routing_replay = true (it records no routing)": parity.routing_replay,
        "trainer.router_auxiliary_loss = true (it tells no router loss)": trainer.router_auxiliary_loss,
        'trainer.recompute = "cheap" (it recomputes whole layers: "all" or "off")': (
            trainer.recompute == "cheap"
        ),
        'trainer.engine = "deepspeed" (its modules are not ours to cut): use "torch"': (
            trainer.engine != "torch"
        ),
        'rollout.tensor_parallel above 1 with rollout.engine = "native" (use "vllm")': (
            rollout.tensor_parallel > 1 and rollout.engine == "native"
        ),
    }
    for what, is_wanted in wants.items():
        if is_wanted:
            yield f"model.hf names a model of transformers, which cannot do {what}"


def _name_of_first(run_file: RunFile) -> str:
    return "the first of length.windows" if run_file.length.windows else "sampling.max_new_tokens"


def _windows_that_do_not_fit(run_file: RunFile) -> Iterator[str]:
    """A window that moves into a bound would stop the run days after its start: better now."""
    needed = run_file.sampling.group_size * largest_window(run_file)
    if run_file.length.windows and needed > run_file.buffer.max_open_tokens:
        yield (
            f"one group of the largest of length.windows reserves {needed} tokens (sampling.group_size x "
            f"{largest_window(run_file)}) and buffer.max_open_tokens allows "
            f"{run_file.buffer.max_open_tokens}: no group could be opened once the window has moved there"
        )


def _roll_backs_out_of_reach(run_file: RunFile) -> Iterator[str]:
    """An alarm that goes back needs a checkpoint from before the trouble, when it has rung."""
    collapse, kept, trainer = run_file.collapse, run_file.checkpoints, run_file.trainer
    if kept.keep_every_steps:
        return
    alarms: dict[str, AlarmSection] = {
        name: value for name, value in collapse if isinstance(value, AlarmSection)
    }
    reach = (kept.keep_last - 1) * min(trainer.checkpoint_every_steps, trainer.updates_per_version)
    for name, alarm in alarms.items():
        needed = alarm.patience - 1 + collapse.roll_back_steps
        if alarm.action == "roll_back" and reach < needed:
            yield (
                f"collapse.{name}.action = 'roll_back' goes back {needed} steps, and checkpoints "
                f"may reach only {reach} steps back (checkpoints.keep_last = {kept.keep_last}): set "
                f"checkpoints.keep_every_steps = {collapse.roll_back_steps}, or raise keep_last"
            )


def _impossible_evaluations(run_file: RunFile) -> Iterator[str]:
    evaluation = run_file.evaluation
    if evaluation.goal_reward is not None and not run_file.prompts.holdout:
        yield "evaluation.goal_reward needs prompts.holdout: without held-out prompts no round can reach it"
    most = max(evaluation.pass_at, default=0)
    if most > evaluation.samples_per_prompt:
        yield (
            f"evaluation.pass_at asks for pass@{most}, and evaluation.samples_per_prompt is "
            f"{evaluation.samples_per_prompt}: at least k samples a prompt are needed; raise the latter"
        )
    if evaluation.samples_per_prompt > 1 and not evaluation.temperature:
        yield (
            "evaluation.temperature is 0 and evaluation.samples_per_prompt is "
            f"{evaluation.samples_per_prompt}: greedy samples of a prompt are all the same; raise the "
            "temperature or ask for 1 sample"
        )


def _impossible_cold_starts(run_file: RunFile) -> Iterator[str]:
    sft = run_file.sft
    if sft.max_tokens is not None and sft.max_tokens > sft.pack_tokens:
        yield (
            f"sft.max_tokens ({sft.max_tokens}) must not exceed sft.pack_tokens ({sft.pack_tokens}): a "
            "demonstration has to fit a pack"
        )
    if sft.stop_after_rounds and not sft.holdout:
        yield "sft.stop_after_rounds needs sft.holdout: without held-out demonstrations nothing is measured"


def _impossible_judges(run_file: RunFile) -> Iterator[str]:
    judge = run_file.reward.judge
    if judge.kind == "openai" and not judge.endpoints:
        yield 'reward.judge.kind = "openai" needs reward.judge.endpoints: without one there is nobody to ask'
    if judge.kind == "rule" and judge.endpoints:
        yield 'reward.judge.endpoints is set and reward.judge.kind is "rule", which asks nobody: set "openai"'
    if judge.votes > 2 and not judge.temperature:
        yield (
            f"reward.judge.votes is {judge.votes} and reward.judge.temperature is 0: votes of the same order "
            "are all the same; raise the temperature or hold 2 votes"
        )
    if judge.binary_floor and judge.mode == "pairwise":
        yield "reward.judge.binary_floor is of five grades, and reward.judge.mode is pairwise: remove it"


def _impossible_curricula(run_file: RunFile) -> Iterator[str]:
    curriculum, largest = run_file.curriculum, largest_window(run_file)
    if curriculum.levels.lower_below >= curriculum.levels.raise_above:
        yield (
            f"curriculum.levels.lower_below ({curriculum.levels.lower_below}) must be below raise_above "
            f"({curriculum.levels.raise_above}): a task would rise and fall with every group"
        )
    if curriculum.domains and not any(domain.weight for domain in curriculum.domains.values()):
        yield "every weight of curriculum.domains is 0: no prompt could be drawn"
    windows = {"curriculum.synthetic.from_window": curriculum.synthetic.from_window or 0}
    for name, domain in curriculum.domains.items():
        windows[f"curriculum.domains.{name}.by_window"] = max((at for at, _ in domain.by_window), default=0)
    for name, window in windows.items():
        if window > largest:
            yield f"{name} names a window of {window} tokens, and the largest of this run is {largest}"
