"""Steps without a model: groups whose log-probs are made up, put through the trainer's own path from rewards
to gradients of log-probs, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from forklight_model.logprobs import TokenStats
from forklight_trainer.batches.batch import TrainingBatch, TrainingGroup, TrainingSample
from forklight_trainer.batches.packing import Pack, pack_samples
from forklight_trainer.loss.normalization import token_weights
from forklight_trainer.loss.objective import PackOutcome, PackScore, PolicyObjective
from forklight_trainer.loss.policy_loss import LossSettings
from forklight_trainer.steps.step import batch_advantages
from services.trainer.tests.transcription import Response, advantages

PACK_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeStep:
    """A batch, and what the trainer's weights would say of each response token, by sample id."""

    batch: TrainingBatch
    logprobs: dict[str, np.ndarray]

    def responses(self) -> tuple[list[Response], list[Tensor]]:
        """What the transcriptions want, and its leaves in the order of the samples."""
        found: list[Response] = []
        for group in self.batch.groups:
            for sample, advantage in zip(group.samples, advantages(group.rewards), strict=True):
                places = sample.places_D
                leaf = torch.tensor(self.logprobs[sample.sample_id][places], requires_grad=True)
                behaviour = torch.from_numpy(sample.behaviour_logprobs[places].astype(np.float64))
                found.append(Response(logprobs=leaf, behaviour=behaviour, advantage=advantage))
        return found, [each.logprobs for each in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A step's loss and the gradient of every response token, by sample id."""

    loss: float
    gradients: dict[str, np.ndarray]
    packs: list[Pack]
    outcomes: list[PackOutcome]

    def drawn(self, sample: TrainingSample) -> np.ndarray:
        return self.gradients[sample.sample_id][sample.places_D]


def made_step(seed: int, *, num_groups: int = 3, group_size: int = 4, put_in: bool = True) -> MadeStep:
    """Groups of uneven lengths and rewards; in some responses a tool put in tokens, one may be all put in."""
    chance = np.random.default_rng(seed)
    groups, logprobs = [], {}
    for group in range(num_groups):
        samples = []
        for place in range(group_size):
            sample = _sample(f"r/g{group}/s{place}", chance, put_in=put_in)
            samples.append(replace(sample, reward=float(chance.normal())))
            noise = 0.8 * chance.normal(size=len(sample.response_ids))
            logprobs[sample.sample_id] = np.minimum(sample.behaviour_logprobs + noise, 0.0)
        groups.append(TrainingGroup(group_id=f"r/g{group}", samples=tuple(samples)))
    return MadeStep(batch=TrainingBatch(batch_id="b", step=1, groups=tuple(groups)), logprobs=logprobs)


def _sample(sample_id: str, chance: np.random.Generator, *, put_in: bool) -> TrainingSample:
    num_tokens = int(chance.integers(1, 30))
    drawn = chance.random(num_tokens) < chance.choice([1.0, 0.7, 0.0], p=[0.5, 0.4, 0.1])
    return TrainingSample(
        sample_id=sample_id,
        prompt_ids=np.arange(int(chance.integers(1, 9)), dtype=np.int32),
        response_ids=np.arange(num_tokens, dtype=np.int32),
        behaviour_logprobs=(-3.0 * chance.random(num_tokens)).astype(np.float32),
        versions=np.zeros(num_tokens, dtype=np.int64),
        reward=0.0,
        drawn=drawn if put_in else None,
    )


def gradients_of(
    made: MadeStep, settings: LossSettings, share: float = 1.0, *, pack_tokens: int = PACK_TOKENS
) -> Found:
    """What `train_step` makes of it between the rewards and the log-probs' gradients."""
    samples = made.batch.samples
    packs = pack_samples(
        samples,
        batch_advantages(made.batch, equal_is_zero=False),
        pack_tokens=pack_tokens,
        weights=token_weights([sample.num_drawn for sample in samples], share),
    )
    objective = PolicyObjective(settings=settings, temperature=1.0, num_fed_tokens=1)
    loss, outcomes, gradients = 0.0, [], {}
    for pack in packs:
        logprobs_T = torch.zeros(len(pack.input_ids_T), dtype=torch.float64)
        for place, index in enumerate(pack.sample_indices):
            response = _response(pack, place, samples[index])
            logprobs_T[response] = torch.from_numpy(made.logprobs[samples[index].sample_id])
        logprobs_T.requires_grad_()
        stats = TokenStats(logprobs_T=logprobs_T, entropy_T=torch.zeros(len(logprobs_T)))
        part, outcome = objective.evaluate(pack, PackScore(stats=stats, router_loss=None))
        part.backward()  # type: ignore[no-untyped-call]
        assert logprobs_T.grad is not None
        for place, index in enumerate(pack.sample_indices):
            response = _response(pack, place, samples[index])
            gradients[samples[index].sample_id] = logprobs_T.grad[response].numpy()
        loss += outcome.loss
        outcomes.append(outcome)
    return Found(loss=loss, gradients=gradients, packs=packs, outcomes=outcomes)


def _response(pack: Pack, place: int, sample: TrainingSample) -> slice:
    end = int(pack.cu_seqlens[place + 1])
    return slice(end - len(sample.response_ids), end)
