"""Top-k routing with a closed gradient: renormalised top-k of a softmax is a softmax over the chosen logits.

Legend: T tokens, E experts, K experts a token.
"""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def moe_router(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    weights_TK, experts_TK = _TopKRouter.apply(logits_TE, top_k)
    return weights_TK, experts_TK


class _TopKRouter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits_TE: Tensor, top_k: int
    ) -> tuple[Tensor, Tensor]:
        probabilities_TE = torch.softmax(logits_TE, dim=-1, dtype=accumulation_dtype(logits_TE))
        experts_TK = _largest_first(probabilities_TE, top_k)
        weights_TK = probabilities_TE.gather(1, experts_TK)
        weights_TK /= weights_TK.sum(dim=-1, keepdim=True)
        ctx.save_for_backward(weights_TK, experts_TK)
        ctx.mark_non_differentiable(experts_TK)
        ctx.logits_shape, ctx.dtype = logits_TE.shape, logits_TE.dtype  # type: ignore[attr-defined]
        return weights_TK, experts_TK

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights_TK, experts_TK = ctx.saved_tensors  # type: ignore[attr-defined]
        product_TK = gradients[0] * weights_TK
        dchosen_TK = product_TK - weights_TK * product_TK.sum(dim=-1, keepdim=True)
        dlogits_TE = weights_TK.new_zeros(ctx.logits_shape)  # type: ignore[attr-defined]
        dlogits_TE.scatter_(1, experts_TK, dchosen_TK)
        return dlogits_TE.to(ctx.dtype), None  # type: ignore[attr-defined]


def _largest_first(probabilities_TE: Tensor, top_k: int) -> Tensor:
    """Experts by falling probability; argmax returns the lowest index of equals, topk promises nothing."""
    if top_k > 4:
        return torch.sort(probabilities_TE, dim=-1, descending=True, stable=True).indices[:, :top_k].contiguous()
    remaining_TE = probabilities_TE.clone()
    chosen = [remaining_TE.argmax(dim=-1, keepdim=True)]
    while len(chosen) < top_k:
        remaining_TE.scatter_(1, chosen[-1], -1.0)
        chosen.append(remaining_TE.argmax(dim=-1, keepdim=True))
    return torch.cat(chosen, dim=-1)
