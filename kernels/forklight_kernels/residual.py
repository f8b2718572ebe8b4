"""The residual sum that ends a block's half: alpha * x + beta * f(x), fused into whatever computes f(x).

Legend: T tokens, D width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """What a result f joins: alpha * x + beta * f, summed in fp32 and rounded once."""

    x_TD: Tensor
    alpha: float
    beta: float
