"""Top-k routing with a closed gradient: renormalised top-k of a softmax is a softmax over the chosen logits.

Scores are a product in the activations' dtype, then widened.
Legend: T tokens, D width, E experts, K experts a token.
"""

import torch
from torch import Tensor

from forklight_kernels.dense import torch_cpu as products
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.moe_router.types import RoutedTokens
from forklight_kernels.packing import accumulation_dtype

FEW_EXPERTS = 4
"""Up to this many chosen experts, one maximum each is faster than a sort of all."""


def moe_router(x_TD: Tensor, weight_ED: Tensor, top_k: int, experts_TK: Tensor | None) -> RoutedTokens:
    logits_TE = products.dense(x_TD, weight_ED, None, x_TD.dtype)
    if experts_TK is not None:
        experts_TK = experts_TK.long()
        chosen_TK = logits_TE.gather(1, experts_TK)
        weights_TK = torch.softmax(chosen_TK, dim=-1, dtype=accumulation_dtype(x_TD))
    elif needs_gradient(logits_TE):
        weights_TK, experts_TK = _TopKRouter.apply(logits_TE, top_k)
    else:
        weights_TK, experts_TK = _route(logits_TE, top_k)
    return RoutedTokens(weights_TK=weights_TK, experts_TK=experts_TK, logits_TE=_widened(logits_TE))


def _widened(logits_TE: Tensor) -> Tensor:
    dtype = accumulation_dtype(logits_TE)
    return logits_TE if logits_TE.dtype == dtype else logits_TE.to(dtype)


def _route(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    probabilities_TE = torch.softmax(logits_TE, dim=-1, dtype=accumulation_dtype(logits_TE))
    chosen_TK, experts_TK = _largest_first(probabilities_TE, top_k)
    return chosen_TK.div_(chosen_TK.sum(dim=-1, keepdim=True)), experts_TK


def _largest_first(probabilities_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k largest, falling. max returns the lowest index of equals, where topk promises nothing."""
    if top_k > FEW_EXPERTS:
        ordered_TE, experts_TE = torch.sort(probabilities_TE, dim=-1, descending=True, stable=True)
        return ordered_TE[:, :top_k].contiguous(), experts_TE[:, :top_k].contiguous()
    rounds = [probabilities_TE.max(dim=-1, keepdim=True)]
    while len(rounds) < top_k:
        probabilities_TE.scatter_(1, rounds[-1].indices, -1.0)
        rounds.append(probabilities_TE.max(dim=-1, keepdim=True))
    return torch.cat([each.values for each in rounds], dim=-1), torch.cat(
        [each.indices for each in rounds], dim=-1
    )


class _Context(Context):
    logits_shape: torch.Size
    dtype: torch.dtype


class _TopKRouter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        weights_TK, experts_TK = _route(logits_TE, top_k)
        ctx.save_for_backward(weights_TK, experts_TK)
        ctx.mark_non_differentiable(experts_TK)
        ctx.logits_shape, ctx.dtype = logits_TE.shape, logits_TE.dtype
        return weights_TK, experts_TK

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights_TK, experts_TK = ctx.saved_tensors
        product_TK = gradients[0] * weights_TK
        dchosen_TK = product_TK - weights_TK * product_TK.sum(dim=-1, keepdim=True)
        dlogits_TE = weights_TK.new_zeros(ctx.logits_shape)
        dlogits_TE.scatter_(1, experts_TK, dchosen_TK)
        return dlogits_TE.to(ctx.dtype), None
