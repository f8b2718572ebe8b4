"""One optimizer update from one batch. What is wrong is named before the optimizer is touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from forklight_core.errors import InvalidInputError, ParityError, PreconditionError
from forklight_core.runfile import first_window, largest_window
from forklight_core.runfile.schema import ParitySection, RunFile
from forklight_trainer import metrics
from forklight_trainer.batches.balance import length_cost
from forklight_trainer.batches.batch import TrainingBatch, TrainingSample
from forklight_trainer.batches.packing import Pack, pack_samples
from forklight_trainer.batches.replay import replay_routing
from forklight_trainer.loss.advantage import group_advantages
from forklight_trainer.loss.normalization import token_weights
from forklight_trainer.loss.objective import PolicyObjective
from forklight_trainer.loss.policy_loss import LossSettings, loss_settings, with_ceiling
from forklight_trainer.loss.schedules import RecipeAt, Schedule, schedule_of, settings_at
from forklight_trainer.ports import TrainEngine
from forklight_trainer.steps.parity import (
    MIN_GATED_TOKENS,
    Parity,
    check_equal,
    check_parity,
    choose_probes,
    measure_parity,
    whole_version_mask,
)
from forklight_trainer.steps.sequences import SequenceFigures, sequence_figures
from forklight_trainer.steps.tally import BatchFigures, Tally, TokenFigures, batch_figures, token_figures

LARGEST_LOGPROB = 1e-3  # a log-prob is at most 0, up to rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """How every step of a run is done."""

    loss: LossSettings
    """Its ceiling is the one that `schedule` begins with."""
    schedule: Schedule
    first_window: int
    """The length window while nothing has moved it."""
    largest_window: int
    """No response of the run may be longer."""
    parity: ParitySection
    must_be_equal: bool
    """A single unequal log-prob refuses the batch."""
    adds_router_loss: bool
    temperature: float
    pack_tokens: int
    equal_is_zero: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """Which weights the trainer holds when a step begins."""

    version: int
    """Newest version published from these weights' ancestors."""
    is_published: bool
    """The weights are exactly that version: no update since."""
    contract: str
    find_version: Callable[[int], Path | None]
    """Folder of a version that is still on disk."""
    window: int | None = None
    """The length window of this step; None: the run's first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What an update did and measured."""

    batch: BatchFigures
    tokens: TokenFigures
    sequences: SequenceFigures
    parity: Parity
    grad_norm: float
    recipe: RecipeAt
    """What the schedule said for this step."""
    advantages: tuple[float, ...]
    """Of the batch's samples, in their order."""


def step_settings(run_file: RunFile, *, is_parity_mode: bool = False) -> StepSettings:
    """The parts of a run file that a step needs. Equal bits are only demanded where they can be had."""
    return StepSettings(
        loss=loss_settings(run_file.recipe),
        schedule=schedule_of(run_file),
        first_window=first_window(run_file),
        largest_window=largest_window(run_file),
        parity=run_file.parity,
        must_be_equal=run_file.parity.require_equal and is_parity_mode,
        adds_router_loss=run_file.trainer.router_auxiliary_loss,
        temperature=run_file.sampling.temperature,
        pack_tokens=run_file.trainer.pack_tokens,
        equal_is_zero=not run_file.buffer.dynamic_sampling,
    )


def train_step(
    engine: TrainEngine,
    batch: TrainingBatch,
    settings: StepSettings,
    policy: PolicyState,
    *,
    before_update: Callable[[], None] | None = None,
) -> StepOutcome:
    """Advantage, pack, forward and backward, checks, update. `before_update` may wait until it may happen."""
    check_batch(batch, engine.config.vocab_size, policy.contract)
    check_lengths(batch, settings.largest_window)
    advantages = batch_advantages(batch, equal_is_zero=settings.equal_is_zero)
    recipe = settings_at(settings.schedule, step=batch.step, window=policy.window or settings.first_window)
    settings = replace(settings, loss=with_ceiling(settings.loss, recipe.eps_high))
    weights = token_weights([sample.num_drawn for sample in batch.samples], recipe.token_share)
    packs = lay_out(engine, batch.samples, settings, advantages=advantages, weights=weights)
    try:
        tally = accumulate(engine, packs, settings)
        check_tally(tally, batch)
        parity = measure_agreement(engine, packs, tally, settings, policy)
        if before_update is not None:
            before_update()
        grad_norm = engine.update(learning_rate=recipe.learning_rate, grad_clip=recipe.grad_clip)
    finally:
        engine.discard_gradients()
    return StepOutcome(
        batch=batch_figures(batch, version=policy.version),
        tokens=token_figures(tally),
        sequences=sequence_figures(batch, advantages, tally.logprobs_by_sample(len(batch.samples))),
        parity=parity,
        grad_norm=grad_norm,
        recipe=recipe,
        advantages=tuple(advantages),
    )


def lay_out(
    engine: TrainEngine,
    samples: Sequence[TrainingSample],
    settings: StepSettings,
    *,
    advantages: Sequence[float],
    weights: Sequence[float],
) -> list[Pack]:
    """The packs of a step, balanced for the engine, with rollout's experts where they are replayed."""
    packs = pack_samples(
        samples,
        advantages,
        pack_tokens=settings.pack_tokens,
        weights=weights,
        num_lanes=engine.num_lanes,
        cost=length_cost(engine.config),
    )
    return replay_routing(packs, samples, engine.config) if settings.parity.routing_replay else packs


def check_batch(batch: TrainingBatch, vocab_size: int, contract: str) -> None:
    """Refuse an empty batch, and samples whose numbers cannot be right."""
    if not batch.groups or not sum(sample.num_drawn for sample in batch.samples):
        raise InvalidInputError(
            f"batch {batch.batch_id} has {len(batch.groups)} groups and no response token that the policy "
            "drew: nothing can be learned from it"
        )
    for sample in batch.samples:
        _check_sample(sample, vocab_size, contract)


def _check_sample(sample: TrainingSample, vocab_size: int, contract: str) -> None:
    logprobs = sample.behaviour_logprobs
    if not np.isfinite(logprobs).all() or (len(logprobs) and logprobs.max() > LARGEST_LOGPROB):
        raise InvalidInputError(
            f"sample {sample.sample_id} has log-probs that are NaN, infinite or above 0: its rollout pod "
            "computed something impossible; look at the pod's log and its weights version"
        )
    ids = np.concatenate([sample.prompt_ids, sample.response_ids])
    if not len(sample.prompt_ids) or ids.min() < 0 or ids.max() >= vocab_size:
        raise InvalidInputError(
            f"sample {sample.sample_id} has an empty prompt or token ids outside 0 to {vocab_size - 1}: "
            "rollout uses another tokenizer or model"
        )
    if sample.contract != contract:
        raise ParityError(
            f"sample {sample.sample_id} was generated under the numeric contract {sample.contract!r}, this "
            f"trainer computes under {contract!r}: restart the rollout pods so that they load this run's "
            "weights"
        )


def check_lengths(batch: TrainingBatch, largest_window: int) -> None:
    """Refuse responses that no window of the run allowed. A window may have moved back since they were
    opened, so the current one says nothing; a pack refuses what does not fit into it."""
    for sample in batch.samples:
        if len(sample.response_ids) > largest_window:
            raise InvalidInputError(
                f"sample {sample.sample_id} has a response of {len(sample.response_ids)} tokens, and the "
                f"largest window of this run is {largest_window}: its rollout pod reads another run file; "
                "restart it"
            )


def batch_advantages(batch: TrainingBatch, *, equal_is_zero: bool) -> list[float]:
    """Advantage of every sample, in the batch's order."""
    found: list[float] = []
    for group in batch.groups:
        found += group_advantages(group.rewards, group_id=group.group_id, equal_is_zero=equal_is_zero)
    return found


def accumulate(engine: TrainEngine, packs: Sequence[Pack], settings: StepSettings) -> Tally:
    """Forward and backward over all packs; they say what each drawn token weighs in the step."""
    objective = PolicyObjective(
        settings=settings.loss,
        temperature=settings.temperature,
        num_fed_tokens=sum(len(pack.input_ids_T) for pack in packs),
        router_coefficient=engine.config.router_aux_loss_coef if settings.adds_router_loss else None,
    )
    tally = Tally()
    for pack, outcome in zip(packs, engine.accumulate(packs, objective), strict=True):
        tally.add(pack, outcome)
    return tally


def check_tally(tally: Tally, batch: TrainingBatch) -> None:
    """Refuse a step whose loss is no number or whose every token was dropped."""
    logprobs_R = tally.column("logprobs")
    num_wrong = int((~torch.isfinite(logprobs_R)).sum())
    loss = tally.loss + (tally.router_loss or 0.0)
    if num_wrong or not np.isfinite(loss):
        raise PreconditionError(
            f"batch {batch.batch_id}: {num_wrong} of {len(logprobs_R)} log-probs of the trainer are NaN or "
            f"infinite and the loss is {loss}; the optimizer was not touched. Restore an older "
            "checkpoint or lower trainer.learning_rate"
        )
    if not bool(tally.column("keep").any()):
        raise PreconditionError(
            f"batch {batch.batch_id}: the unified mask drops all {len(logprobs_R)} tokens, so there is "
            "nothing to learn; widen recipe.mask_eps_low and mask_eps_high or lower "
            "trainer.updates_per_version"
        )


def measure_agreement(
    engine: TrainEngine, packs: Sequence[Pack], tally: Tally, settings: StepSettings, policy: PolicyState
) -> Parity:
    """Agreement with the weights that sampled the tokens, which gates; else with the current ones."""
    logprobs_R, behaviour_R = tally.column("logprobs"), tally.column("behaviour")
    if policy.is_published:
        own_R = whole_version_mask(tally.column("versions"), tally.column("sample"), policy.version)
        if bool(own_R.any()):
            parity = measure_parity(logprobs_R[own_R], behaviour_R[own_R], version=policy.version)
            return gate_parity(parity, settings)
    for probe in choose_probes(packs):
        folder = policy.find_version(probe.version)
        scored_T = engine.score_version(folder, probe.pack, settings.temperature) if folder else None
        if scored_T is not None:
            theirs_R = scored_T[probe.pack.response_index_R][probe.own_R]
            parity = measure_parity(theirs_R, probe.pack.behaviour_R[probe.own_R], version=probe.version)
            return gate_parity(parity, settings)
    return measure_parity(logprobs_R, behaviour_R, version=None)


def gate_parity(parity: Parity, settings: StepSettings) -> Parity:
    """Raise when trainer and rollout do not agree; what was measured is seen all the same."""
    if parity.num_tokens >= MIN_GATED_TOKENS:
        metrics.record_gate(parity.correlation, settings.parity.min_correlation)
    check_parity(parity, settings.parity)
    return check_equal(parity) if settings.must_be_equal else parity
