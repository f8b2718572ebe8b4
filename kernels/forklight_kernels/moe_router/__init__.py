"""MoE routing: softmax over all experts in fp32, top-k with ties to the lowest index, renormalised to 1."""

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import MAX_EXPERTS, require, require_dims, require_dtype, require_same
from forklight_kernels.moe_router import naive, torch_cpu
from forklight_kernels.moe_router.types import RoutedTokens


def moe_router(x_TD: Tensor, weight_ED: Tensor, top_k: int, experts_TK: Tensor | None = None) -> RoutedTokens:
    """Route tokens by the scores x @ weight^T. With `experts_TK` those experts are taken (a replay).

    Weights and scores are differentiable in x and weight, replayed or not.
    """
    if not _is_fine(x_TD, weight_ED, top_k, experts_TK):
        _refuse(x_TD, weight_ED, top_k, experts_TK)
    backend = backend_for(x_TD)
    if backend is Backend.TRITON:
        from forklight_kernels.moe_router import triton_gpu

        return triton_gpu.moe_router(x_TD, weight_ED, top_k, experts_TK)
    if backend is Backend.NAIVE:
        return naive.moe_router(x_TD, weight_ED, top_k, experts_TK)
    return torch_cpu.moe_router(x_TD, weight_ED, top_k, experts_TK)


def _is_fine(x_TD: Tensor, weight_ED: Tensor, top_k: int, experts_TK: Tensor | None) -> bool:
    """The tests of `_refuse` without its messages, which cost more than a decode step's routing."""
    if x_TD.dim() != 2 or weight_ED.dim() != 2:
        return False
    (num_rows, depth), (num_experts, weight_depth) = x_TD.shape, weight_ED.shape
    if depth != weight_depth or weight_ED.dtype != x_TD.dtype or weight_ED.device != x_TD.device:
        return False
    if not 1 <= top_k <= num_experts <= MAX_EXPERTS:
        return False
    return experts_TK is None or (
        experts_TK.shape == (num_rows, top_k)
        and experts_TK.dtype in (torch.int64, torch.int32)
        and experts_TK.device == x_TD.device
    )


def _refuse(x_TD: Tensor, weight_ED: Tensor, top_k: int, experts_TK: Tensor | None) -> None:
    require_dims("x", x_TD, 2, "[T, D]")
    require_dims("weight", weight_ED, 2, "[E, D]")
    require_same(x=x_TD, weight=weight_ED)
    require(
        x_TD.shape[1] == weight_ED.shape[1],
        f"x has {x_TD.shape[1]} columns and weight {weight_ED.shape[1]}; they must be equal",
    )
    num_experts = len(weight_ED)
    require(
        num_experts <= MAX_EXPERTS, f"weight has {num_experts} experts; at most {MAX_EXPERTS} are supported"
    )
    require(
        1 <= top_k <= num_experts, f"top_k is {top_k}; it must be 1 to {num_experts}, the number of experts"
    )
    if experts_TK is not None:
        require_dtype("experts", experts_TK, (torch.int64, torch.int32))
        require(
            tuple(experts_TK.shape) == (len(x_TD), top_k) and experts_TK.device == x_TD.device,
            f"experts has shape {tuple(experts_TK.shape)} on {experts_TK.device}; expected "
            f"{(len(x_TD), top_k)} on {x_TD.device}, from x's rows and top_k",
        )


__all__ = ["RoutedTokens", "moe_router"]
