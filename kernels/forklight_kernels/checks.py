"""What every op refuses before any launch: a ValueError that names the argument and what is allowed.

Messages are made only when they are needed: doors are passed some hundred times a token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

HEAD_SIZES = (16, 32, 64, 128)
"""Powers of two that fit a tile; the published model has 128."""

MAX_EXPERTS = 256
"""Router scores of a token stay in one program's registers."""


def require(is_fine: bool, message: str) -> None:
    """Raise ValueError with this message unless the condition holds."""
    if not is_fine:
        raise ValueError(message)


def require_dims(name: str, tensor: Tensor, num_dims: int, legend: str) -> None:
    """`legend` names the dims, for instance [T, H, D]."""
    if tensor.dim() != num_dims:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {num_dims} dims {legend}")


def require_head_size(name: str, tensor: Tensor, allowed: Sequence[int] = HEAD_SIZES) -> None:
    """The last dim of a per-head tensor."""
    size = tensor.shape[-1]
    if size not in allowed:
        raise ValueError(f"{name} has head size {size}; allowed are {', '.join(map(str, allowed))}")


def require_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """One of the dtypes that the kernel is written for."""
    if tensor.dtype not in allowed:
        raise ValueError(f"{name} is {_short(tensor.dtype)}; allowed are {', '.join(map(_short, allowed))}")


def require_same(**tensors: Tensor) -> None:
    """All on one device and of one dtype."""
    (first_name, first), *others = tensors.items()
    dtype, device = first.dtype, first.device
    for name, tensor in others:
        if tensor.dtype != dtype:
            raise ValueError(
                f"{name} is {_short(tensor.dtype)} and {first_name} {_short(dtype)}; they must be the same"
            )
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device} and {first_name} on {device}; they must be on one device"
            )


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...], why: str) -> None:
    """`why` says what the shape follows from."""
    if tensor.shape != expected:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {expected}, from {why}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
