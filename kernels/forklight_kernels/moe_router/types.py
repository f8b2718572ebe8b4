"""What the router says of each token. Legend: T tokens, E experts, K experts a token."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedTokens:
    """Chosen experts, their weights, and the scores they come from."""

    weights_TK: Tensor
    """fp32, each row sums to 1; differentiable."""
    experts_TK: Tensor
    """int64, best first (or as given)."""
    logits_TE: Tensor
    """fp32 (fp64 for fp64 input); differentiable, for an auxiliary loss."""
