"""A response as the page shows it: windows of coloured tokens, a map of all, stretches that were put in.

R response tokens, B buckets of the map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forklight_console.samples.ports import TextSource
from forklight_console.shown import visible_token
from forklight_core.wire import Span, TrajectoryArrays

WINDOW = 2000
"""Tokens a page: what a browser draws at once without being felt (80K spans take it seconds)."""
BUCKETS = 1200
VERSION_COLOURS = 6
SAME_REWARD = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token; `css` is its classes, `title` what is said when it is pointed at."""

    css: str
    text: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some tokens of a response and where the neighbours begin."""

    start: int
    stop: int
    num_tokens: int
    tokens: Sequence[Token]
    previous: int | None
    following: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Tokens that the policy did not draw: what a tool said."""

    start: int
    stop: int


def make_window(arrays: TrajectoryArrays, spans: Sequence[Span], text: TextSource, start: int) -> Window:
    """The window that a token is at the beginning of."""
    num_tokens = len(arrays.response_ids)
    start = min(max(0, start), max(0, num_tokens - 1))
    stop = min(num_tokens, start + WINDOW)
    pieces = text.pieces(arrays.response_ids.tolist(), start, stop)
    logprobs, raw = arrays.logprobs[start:stop].tolist(), arrays.raw_logprobs[start:stop].tolist()
    drawn = [1] * (stop - start) if arrays.drawn is None else arrays.drawn[start:stop].tolist()
    ranks, versions = _versions(spans, start, stop)
    tokens = [
        _token(start + at, piece, (logprobs[at], raw[at]), ranks[at], versions[at]) if drawn[at]
        else _put_in(start + at, piece, ranks[at])
        for at, piece in enumerate(pieces)
    ]  # fmt: skip
    return Window(
        start=start,
        stop=stop,
        num_tokens=num_tokens,
        tokens=tokens,
        previous=max(0, start - WINDOW) if start else None,
        following=stop if stop < num_tokens else None,
    )


def _token(at: int, piece: str, logprobs: tuple[float, float], rank: int, version: int | None) -> Token:
    probability, raw = _probability(logprobs[0]), _probability(logprobs[1])
    level = min(9, int(probability * 10)) if math.isfinite(probability) else 0
    beside = "" if abs(raw - probability) < 5e-5 else f" (at temperature 1: {raw:.4f})"
    whose = "" if version is None else f", version {version}"
    return Token(
        css=f"p{level} v{rank}",
        text=visible_token(piece),
        title=f"token {at}: p {probability:.4f}{beside}{whose}",
    )


def _put_in(at: int, piece: str, rank: int) -> Token:
    return Token(css=f"x v{rank}", text=visible_token(piece), title=f"token {at}: put in, not drawn")


def _probability(logprob: float) -> float:
    """Of a log-prob; one that is no number is shown as such."""
    return math.exp(min(logprob, 0.0)) if not math.isnan(logprob) else math.nan


def _versions(spans: Sequence[Span], start: int, stop: int) -> tuple[list[int], list[int | None]]:
    """Of each token: the colour of its version, and the version; unknown without spans."""
    if not spans:
        return [0] * (stop - start), [None] * (stop - start)
    starts = np.array([span.start for span in spans])
    order = {version: rank for rank, version in enumerate(sorted({span.version for span in spans}))}
    at = np.maximum(np.searchsorted(starts, np.arange(start, stop), side="right") - 1, 0)
    versions = [spans[int(each)].version for each in at]
    return [order[each] % VERSION_COLOURS for each in versions], list(versions)


def make_map(arrays: TrajectoryArrays, spans: Sequence[Span]) -> dict[str, object]:
    """The whole response in a few numbers: the mean and the least probability of each bucket."""
    num_tokens = len(arrays.response_ids)
    probabilities = np.exp(np.minimum(np.nan_to_num(arrays.logprobs.astype(np.float64), nan=-99.0), 0.0))
    drawn = np.ones(num_tokens, dtype=bool) if arrays.drawn is None else arrays.drawn.astype(bool)
    edges = np.linspace(0, num_tokens, min(BUCKETS, num_tokens) + 1).astype(np.int64)
    order = {version: rank for rank, version in enumerate(sorted({span.version for span in spans}))}
    return {
        "num_tokens": num_tokens,
        "mean": _of_buckets(probabilities, drawn, edges, np.mean),
        "least": _of_buckets(probabilities, drawn, edges, np.min),
        "spans": [[span.start, span.version, order[span.version] % VERSION_COLOURS] for span in spans],
        "put_in": [[stretch.start, stretch.stop] for stretch in put_in_stretches(arrays)],
    }


def _of_buckets(
    values: npt.NDArray[np.float64],
    drawn: npt.NDArray[np.bool_],
    edges: npt.NDArray[np.int64],
    measure: object,
) -> list[float | None]:
    """A figure a bucket over what was drawn; None where nothing was."""
    assert callable(measure)
    found: list[float | None] = []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        chosen = values[low:high][drawn[low:high]]
        found.append(round(float(measure(chosen)), 3) if len(chosen) else None)
    return found


def put_in_stretches(arrays: TrajectoryArrays) -> list[Stretch]:
    """Where the policy did not draw."""
    if arrays.drawn is None or not len(arrays.drawn):
        return []
    marks = np.flatnonzero(np.diff(np.concatenate([[1], arrays.drawn, [1]]).astype(np.int8)))
    return [
        Stretch(start=int(low), stop=int(high)) for low, high in zip(marks[::2], marks[1::2], strict=True)
    ]


def group_advantages(rewards: Sequence[float | None]) -> list[float | None]:
    """(reward - mean) / standard deviation of the group's scored samples, as the trainer has it.

    None where there is no reward, or where all are equal.
    """
    known = [reward for reward in rewards if reward is not None]
    if not known:
        return [None] * len(rewards)
    mean = math.fsum(known) / len(known)
    deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in known) / len(known))
    if deviation <= SAME_REWARD * max(1.0, *map(abs, known)):
        return [None] * len(rewards)
    return [None if reward is None else (reward - mean) / deviation for reward in rewards]


def advantage_level(advantage: float | None) -> int:
    """-4 to 4, for the colour."""
    return 0 if advantage is None else max(-4, min(4, round(advantage * 2)))


def first_difference(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> int | None:
    """The first token at which two responses differ; None when they are the same."""
    shared = min(len(one), len(other))
    differ = np.flatnonzero(one[:shared] != other[:shared])
    if len(differ):
        return int(differ[0])
    return None if len(one) == len(other) else shared
