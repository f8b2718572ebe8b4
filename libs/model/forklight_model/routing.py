"""What routers chose in one pass: recorded, replayed, and judged for balance.

Legend: T tokens, E experts, K chosen a token, L layers.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_kernels import RoutedTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRouting:
    """The choices of another pass over the same tokens, to be made again."""

    experts_LTK: Tensor
    """Expert numbers, any integer dtype."""
    weights_LTK: Tensor
    """fp32; how much each expert counted there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertUsage:
    """What balance is judged by, summed over tokens and layers; sums of several passes may be added."""

    counts_E: Tensor
    """int64: slots that chose an expert."""
    mass_E: Tensor
    """Its probability; differentiable."""
    num_tokens: int
    """A token counts once a layer."""

    def balancing_loss(self) -> Tensor:
        """The published auxiliary loss: experts x sum over experts of (share of slots) x (mean probability).

        Equal use of every expert gives top_k.
        """
        share_E = self.counts_E.to(self.mass_E.dtype) / self.num_tokens
        return len(share_E) * torch.dot(share_E, self.mass_E / self.num_tokens)


class Routing:
    """Hand one to a forward pass to have it filled; made with a record, it makes the pass repeat that record.

    A replayed pass takes the recorded experts and counts them with the recorded weights. Gradients flow
    through this pass's own scores of those experts, so the router still learns.
    """

    def __init__(self, replayed: RecordedRouting | None = None) -> None:
        self._replayed = replayed
        self._routed: dict[int, RoutedTokens] = {}
        self._weights: dict[int, Tensor] = {}

    def experts_of(self, layer: int) -> Tensor | None:
        """The experts that a layer must take; None where it chooses itself."""
        if self._replayed is None:
            return None
        return self._replayed.experts_LTK[layer].to(torch.int64)

    def record(self, layer: int, routed: RoutedTokens) -> Tensor:
        """Keep a layer's choice; returns the weights to count its experts with."""
        weights_TK = routed.weights_TK
        if self._replayed is not None:
            recorded_TK = self._replayed.weights_LTK[layer].to(weights_TK.dtype)
            # The value is the recorded one, exactly; the gradient is that of this pass's own weights.
            weights_TK = recorded_TK + (weights_TK - weights_TK.detach())
        self._routed[layer] = routed
        self._weights[layer] = weights_TK.detach()
        return weights_TK

    @property
    def experts_LTK(self) -> Tensor:
        """int64."""
        return torch.stack([self._routed[layer].experts_TK for layer in sorted(self._routed)])

    @property
    def recorded(self) -> RecordedRouting:
        """This pass's choices, for a replay."""
        weights = [self._weights[layer] for layer in sorted(self._weights)]
        return RecordedRouting(experts_LTK=self.experts_LTK, weights_LTK=torch.stack(weights))

    def load_balancing_loss(self) -> Tensor:
        """The published auxiliary loss; shares and means run over all tokens of all layers together."""
        return self.usage().balancing_loss()

    def usage(self, num_tokens: int | None = None) -> ExpertUsage:
        """Of the pass's first tokens (the rest is padding), or of all."""
        if not self._routed:
            raise InvalidInputError(
                "no layer has recorded its routing: pass this object to forward_hidden first"
            )
        layers = [self._routed[layer] for layer in sorted(self._routed)]
        num_experts = layers[0].logits_TE.shape[1]
        own = slice(num_tokens)
        counts = (torch.bincount(each.experts_TK[own].flatten(), minlength=num_experts) for each in layers)
        masses = (torch.softmax(each.logits_TE[own], dim=-1).sum(dim=0) for each in layers)
        return ExpertUsage(
            counts_E=reduce(torch.add, counts),
            mass_E=reduce(torch.add, masses),
            num_tokens=sum(len(each.logits_TE[own]) for each in layers),
        )
