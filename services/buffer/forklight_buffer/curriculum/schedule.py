"""Shares of domains: what the run file says of a committed step and a length window."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from forklight_core.runfile import RunFile, first_window, largest_window
from forklight_core.runfile.sections.curriculum import DomainSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When prompts are drawn."""

    step: int
    window: int
    judged: float = 1.0
    """What prompts that only a judge can score keep of their weight."""


class Stock(NamedTuple):
    """What can be drawn of a domain now, as sums of weights."""

    plain: int
    synthetic: int

    @property
    def total(self) -> int:
        return self.plain + self.synthetic


def domain_weight(section: DomainSection, moment: Moment) -> float:
    """Weight of a domain beside the others."""
    weight = section.weight
    if section.by_step:
        weight *= _between(section.by_step, moment.step)
    reached = bisect_right([window for window, _ in section.by_window], moment.window)
    return weight * section.by_window[reached - 1][1] if reached else weight


def _between(points: tuple[tuple[int, float], ...], step: int) -> float:
    """Linear between points, level outside them."""
    after = bisect_right([at for at, _ in points], step)
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (low, first), (high, last) = points[after - 1], points[after]
    return first + (last - first) * (step - low) / (high - low)


def synthetic_factor(run_file: RunFile, window: int) -> float:
    """What is left of the share of synthetic prompts."""
    section, largest = run_file.curriculum.synthetic, largest_window(run_file)
    start = section.from_window
    if start is None:
        if largest == first_window(run_file):
            return 1.0
        start = largest
    return section.factor if window >= start else 1.0


def split_shares(
    weights: Mapping[str, float], stocks: Mapping[str, Stock], factor: float
) -> dict[tuple[str, bool], float]:
    """Share by (domain, is synthetic), summing to 1; empty when nothing that has a weight can be drawn.

    What is cut of a domain's synthetic share goes to the rest of the domain; of a domain that is all
    synthetic, to the domains that are not.
    """
    there = {name: weight for name, weight in weights.items() if weight > 0.0 and stocks[name].total}
    whole = sum(there.values())
    if not whole:
        return {}
    if not any(stocks[name].plain for name in there):
        return {(name, True): weight / whole for name, weight in there.items()}
    pure = sum(there[name] for name in there if not stocks[name].plain) / whole
    shares: dict[tuple[str, bool], float] = {}
    for name, weight in there.items():
        stock = stocks[name]
        synthetic = weight / whole * factor * stock.synthetic / stock.total
        if synthetic:
            shares[name, True] = synthetic
        if stock.plain:
            shares[name, False] = weight / whole * (1.0 - pure * factor) / (1.0 - pure) - synthetic
    return shares
