"""One process's part of all experts. Legend: E experts, D width, I expert width, n processes."""

from collections.abc import Callable
from dataclasses import dataclass

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
