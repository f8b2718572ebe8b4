"""What one step measured, gathered pack by pack and summed up once.

Legend: R response tokens of the whole step that the policy drew, in the order of the packs.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forklight_trainer.batches.batch import TrainingBatch
from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.objective import PackOutcome


@dataclass(slots=True, kw_only=True)
class Tally:
    """Per-token figures of the packs seen so far, without gradients."""

    loss: float = 0.0
    router_loss: float | None = None
    columns: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, pack: Pack, outcome: PackOutcome) -> None:
        """Take in a pack's figures; its router loss is a share of the step's, as its loss is."""
        self.loss += outcome.loss
        if outcome.router_loss is not None:
            self.router_loss = (self.router_loss or 0.0) + outcome.router_loss
        for name, values_R in (
            ("logprobs", outcome.logprobs_R),
            ("entropy", outcome.entropy_R),
            ("behaviour", pack.behaviour_R),
            ("versions", pack.versions_R),
            ("sample", pack.sample_R),
            ("ratio", outcome.ratio_R),
            ("keep", outcome.keep_R),
            ("clipped_high", outcome.clipped_high_R),
            ("clipped_low", outcome.clipped_low_R),
        ):
            self.columns.setdefault(name, []).append(values_R)

    def column(self, name: str) -> Tensor:
        """One figure of every response token."""
        return torch.cat(self.columns[name])

    def logprobs_by_sample(self, num_samples: int) -> list[npt.NDArray[np.float64]]:
        """Log-probs of each sample's drawn tokens, in the order of the response."""
        sample_R = self.column("sample").numpy()
        order_R = np.argsort(sample_R, kind="stable")
        ends_N = np.cumsum(np.bincount(sample_R, minlength=num_samples))
        return np.split(self.column("logprobs").double().numpy()[order_R], ends_N[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFigures:
    """What the batch looked like before anything was computed."""

    num_groups: int
    num_samples: int
    num_tokens: int
    """Drawn ones: the normaliser of the loss."""
    num_put_in: int
    """Tokens of responses that tools put in."""
    reward_mean: float
    reward_std: float
    length_mean: float
    length_p50: float
    length_p99: float
    staleness_mean: float
    staleness_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFigures:
    """What the trainer's weights thought of the batch's tokens."""

    loss: float
    router_auxiliary_loss: float | None
    entropy: float
    ratio_mean: float
    ratio_max: float
    clip_share_high: float
    clip_share_low: float
    masked_share: float


def batch_figures(batch: TrainingBatch, *, version: int) -> BatchFigures:
    """Rewards, lengths (of what fills the window, so with what was put in), and by how many versions the
    drawn tokens are behind."""
    samples = batch.samples
    rewards = [sample.reward for sample in samples]
    lengths = np.array([len(sample.response_ids) for sample in samples])
    num_drawn = sum(sample.num_drawn for sample in samples)
    staleness = np.concatenate([version - sample.versions[sample.places_D] for sample in samples])
    return BatchFigures(
        num_groups=len(batch.groups),
        num_samples=len(samples),
        num_tokens=num_drawn,
        num_put_in=int(lengths.sum()) - num_drawn,
        reward_mean=statistics.fmean(rewards),
        reward_std=statistics.pstdev(rewards),
        length_mean=float(lengths.mean()),
        length_p50=float(np.quantile(lengths, 0.5)),
        length_p99=float(np.quantile(lengths, 0.99)),
        staleness_mean=float(staleness.mean()) if len(staleness) else 0.0,
        staleness_max=int(staleness.max()) if len(staleness) else 0,
    )


def token_figures(tally: Tally) -> TokenFigures:
    """Means over all response tokens of the step."""
    ratio_R = tally.column("ratio")
    return TokenFigures(
        loss=tally.loss,
        router_auxiliary_loss=tally.router_loss,
        entropy=_mean(tally.column("entropy")),
        ratio_mean=_mean(ratio_R),
        ratio_max=float(ratio_R.max()),
        clip_share_high=_mean(tally.column("clipped_high")),
        clip_share_low=_mean(tally.column("clipped_low")),
        masked_share=1.0 - _mean(tally.column("keep")),
    )


def _mean(values_R: Tensor) -> float:
    return float(values_R.double().mean())
