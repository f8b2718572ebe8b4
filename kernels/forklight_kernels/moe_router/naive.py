"""Top-k routing by its definition. Legend: T tokens, D width, E experts, K experts a token."""

import torch
from torch import Tensor

from forklight_kernels.moe_router.types import RoutedTokens
from forklight_kernels.packing import accumulation_dtype


def moe_router(x_TD: Tensor, weight_ED: Tensor, top_k: int, experts_TK: Tensor | None) -> RoutedTokens:
    exact = accumulation_dtype(x_TD)
    logits_TE = x_TD.to(exact) @ weight_ED.to(exact).T
    probabilities_TE = torch.softmax(logits_TE, dim=-1)
    if experts_TK is None:
        # A stable descending sort keeps equal probabilities in the order of their expert number.
        experts_TK = torch.sort(probabilities_TE, dim=-1, descending=True, stable=True).indices[:, :top_k]
    experts_TK = experts_TK.long()
    chosen_TK = probabilities_TE.gather(1, experts_TK)
    weights_TK = chosen_TK / chosen_TK.sum(dim=-1, keepdim=True)
    return RoutedTokens(weights_TK=weights_TK, experts_TK=experts_TK, logits_TE=logits_TE)
