"""One process's part of all experts: some outputs of every one, or some of them whole.

Legend: E experts, D width, I expert width, F = 2 I, n processes, W any width, R rows of tokens (token, slot)
of this process, S rows of all processes for experts of this one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertPart:
    """Every expert, but few of its outputs: some rows of w1 and w3, and some columns of w2's result."""

    w13_EFD: Tensor
    """[E, 2 I / n, D]: these rows of w1 above the same rows of w3."""
    w2_EID: Tensor
    """[E, I, D / n]: w2 transposed."""
    gather_columns: Callable[[Tensor], Tensor]
    """Makes all processes' columns [R, I] of this one's [R, I / n]. Every process gathers the same rows."""


class RowTrip(Protocol):
    """One layer's rows between their tokens' processes and their experts'. Nothing here rounds.

    Every process makes the same calls in the same order, whether it has rows or not.
    """

    @property
    def experts_S(self) -> Tensor:
        """This process's expert (its first is 0) of each row that arrives, int64: rows lie source after
        source, by expert inside, in token order inside that."""
        ...

    def to_owners(self, rows_RW: Tensor) -> Tensor:
        """Rows in the order of (expert, token) to the processes that hold the experts: [S, W] arrive."""
        ...

    def to_sources(self, rows_SW: Tensor) -> Tensor:
        """The way back: [R, W], in the order in which `to_owners` was given them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertSpread:
    """Some whole experts here, the rest with other processes."""

    num_experts: int
    """Of all processes; rows name experts by these numbers."""
    w13_EFD: Tensor
    """This process's own: w1 above w3."""
    w2_EID: Tensor
    """This process's own: w2 transposed."""
    start_trip: Callable[[Tensor], RowTrip]
    """Given the number of this process's rows for each of all experts, int64."""
