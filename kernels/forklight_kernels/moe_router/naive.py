"""Top-k routing by its definition. Legend: T tokens, E experts, K experts a token."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def moe_router(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    probabilities_TE = torch.softmax(logits_TE.to(accumulation_dtype(logits_TE)), dim=-1)
    # A stable descending sort keeps equal probabilities in the order of their expert number.
    experts_TK = torch.sort(probabilities_TE, dim=-1, descending=True, stable=True).indices[:, :top_k]
    chosen_TK = probabilities_TE.gather(1, experts_TK)
    return chosen_TK / chosen_TK.sum(dim=-1, keepdim=True), experts_TK
