"""Rotary position embedding on the first `rotary_dim` dims of each head (halves rotated, NeoX style)."""

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require, require_dims, require_dtype, require_same, require_shape
from forklight_kernels.rope import naive, torch_cpu


def rope(x_THD: Tensor, positions_T: Tensor, rotary_dim: int, theta: float) -> Tensor:
    """x with its first `rotary_dim` dims turned by position; the rest untouched. Differentiable in x."""
    return _turned((x_THD,), positions_T, rotary_dim, theta)[0]


def rope_pair(
    q_THD: Tensor, k_TGD: Tensor, positions_T: Tensor, rotary_dim: int, theta: float
) -> tuple[Tensor, Tensor]:
    """rope of the queries and of the keys; on a GPU in one launch. Differentiable in both."""
    require_dims("k_TGD", k_TGD, 3, "[T, G, D]")
    expected = (q_THD.shape[0], k_TGD.shape[1], q_THD.shape[-1])
    require_shape("k_TGD", k_TGD, expected, "the tokens and head size of q_THD")
    require_same(q_THD=q_THD, k_TGD=k_TGD)
    q_turned_THD, k_turned_TGD = _turned((q_THD, k_TGD), positions_T, rotary_dim, theta)
    return q_turned_THD, k_turned_TGD


def _turned(
    heads: tuple[Tensor, ...], positions_T: Tensor, rotary_dim: int, theta: float
) -> tuple[Tensor, ...]:
    _check(heads[0], positions_T, rotary_dim)
    backend = backend_for(heads[0])
    if backend is Backend.NAIVE:
        return tuple(naive.rope(x, positions_T, rotary_dim, theta) for x in heads)
    if backend is Backend.TRITON:
        from forklight_kernels.rope import triton_gpu

        return triton_gpu.rope(heads, positions_T, rotary_dim, theta)
    return tuple(torch_cpu.rope(x, positions_T, rotary_dim, theta) for x in heads)


def _check(x_THD: Tensor, positions_T: Tensor, rotary_dim: int) -> None:
    require_dims("x_THD", x_THD, 3, "[T, H, D]")
    require_shape("positions_T", positions_T, (len(x_THD),), "the tokens of x_THD")
    require_dtype("positions_T", positions_T, (torch.int64, torch.int32))
    require(
        positions_T.device == x_THD.device,
        f"positions_T is on {positions_T.device} and x_THD on {x_THD.device}; they must be on one device",
    )
    head_size = x_THD.shape[-1]
    require(
        0 <= rotary_dim <= head_size and rotary_dim % 2 == 0,
        f"rotary_dim is {rotary_dim}; expected an even number from 0 to the head size, {head_size}",
    )


__all__ = ["rope", "rope_pair"]
