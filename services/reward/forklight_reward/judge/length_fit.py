"""What a doubling of length is worth to the judge, at matched correctness, within groups.

Legend: N samples of a window, G groups, K regressors (log2 length, correctness).
  s - mean_g s = beta (l - mean_g l) + gamma (q - mean_g q) + e,  errors of a group may hang together.
Without q the slope is confounded: where right answers are longer, an honest judge looks biased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from forklight_core.errors import InvalidInputError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

LEAST_GROUPS = 8
SMALLEST_SPREAD = 1e-9
SMALLEST_ERROR = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Judged samples whose correctness is known from elsewhere."""

    scores_N: Floats
    lengths_N: Floats
    """log2 of the length of the judged text."""
    correct_N: Floats
    groups_N: Ints

    def __post_init__(self) -> None:
        sizes = {len(each) for each in (self.scores_N, self.lengths_N, self.correct_N, self.groups_N)}
        if len(sizes) != 1:
            raise InvalidInputError(f"a window's columns have different lengths: {sorted(sizes)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthFit:
    """The slopes of a window."""

    beta: float
    """Score a doubling of length."""
    error: float
    """Standard error of beta, clustered by group."""
    gamma: float
    """Score of being right."""
    num_groups: int


def centre(values_N: Floats, index_N: Ints, num_groups: int) -> Floats:
    """Values less the mean of their group."""
    sums_G = np.bincount(index_N, weights=values_N, minlength=num_groups)
    sizes_G = np.bincount(index_N, minlength=num_groups)
    return np.asarray(values_N - (sums_G / sizes_G)[index_N], dtype=np.float64)


def _spread_G(centred_N: Floats, index_N: Ints, num_groups: int) -> Floats:
    squares_G = np.bincount(index_N, weights=centred_N**2, minlength=num_groups)
    return np.asarray(squares_G, dtype=np.float64)


def fit_length(window: Window) -> LengthFit | None:
    """The slopes, over groups that vary in score and in length; None with less than 8 of them."""
    ids, index_N = np.unique(window.groups_N, return_inverse=True)
    columns = [centre(each, index_N, len(ids)) for each in (window.scores_N, window.lengths_N)]
    varies_G = np.logical_and.reduce(
        [_spread_G(each, index_N, len(ids)) > SMALLEST_SPREAD for each in columns]
    )
    num_groups = int(varies_G.sum())
    if num_groups < LEAST_GROUPS:
        return None
    kept_N = varies_G[index_N]
    _, cluster_N = np.unique(index_N[kept_N], return_inverse=True)
    score_N, length_N = (each[kept_N] for each in columns)
    correct_N = centre(window.correct_N, index_N, len(ids))[kept_N]
    has_both = bool((correct_N**2).sum() > SMALLEST_SPREAD)
    regressors_NK = np.stack([length_N, correct_N] if has_both else [length_N], axis=1)
    inverse_KK = np.linalg.pinv(regressors_NK.T @ regressors_NK)
    slopes_K = inverse_KK @ regressors_NK.T @ score_N
    residual_N = score_N - regressors_NK @ slopes_K
    pushes_KN = (regressors_NK * residual_N[:, None]).T
    pushes_GK = np.stack(
        [np.bincount(cluster_N, weights=each, minlength=num_groups) for each in pushes_KN], axis=1
    )
    meat_KK = pushes_GK.T @ pushes_GK * num_groups / (num_groups - 1)
    variance_KK = inverse_KK @ meat_KK @ inverse_KK
    return LengthFit(
        beta=float(slopes_K[0]),
        error=max(float(np.sqrt(variance_KK[0, 0])), SMALLEST_ERROR),
        gamma=float(slopes_K[1]) if has_both else 0.0,
        num_groups=num_groups,
    )


def longer_preferred(window: Window) -> float | None:
    """P(the longer of two equally right answers of a group scores higher) - 1/2; ties of the score count
    half. None without such a pair.
    """
    num_pairs, preferred = 0, 0.0
    for group in np.unique(window.groups_N):
        mine_N = window.groups_N == group
        scores, lengths, correct = (
            each[mine_N] for each in (window.scores_N, window.lengths_N, window.correct_N)
        )
        first, second = np.triu_indices(len(scores), k=1)
        usable = (correct[first] == correct[second]) & (lengths[first] != lengths[second])
        leaning = np.sign(scores[first] - scores[second]) * np.sign(lengths[first] - lengths[second])
        num_pairs += int(usable.sum())
        preferred += float(leaning[usable].sum()) / 2
    return preferred / num_pairs if num_pairs else None
