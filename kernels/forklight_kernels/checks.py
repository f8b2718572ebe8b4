"""What every op refuses before any launch: a ValueError that names the argument and what is allowed."""

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
    require(
        tensor.dim() == num_dims, f"{name} has shape {tuple(tensor.shape)}; expected {num_dims} dims {legend}"
    )


def require_head_size(name: str, tensor: Tensor, allowed: Sequence[int] = HEAD_SIZES) -> None:
    """The last dim of a per-head tensor."""
    size = tensor.shape[-1]
    require(size in allowed, f"{name} has head size {size}; allowed are {', '.join(map(str, allowed))}")


def require_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """One of the dtypes that the kernel is written for."""
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
    require(tensor.dtype in allowed, f"{name} is {_short(tensor.dtype)}; allowed are {names}")


def require_same(**tensors: Tensor) -> None:
    """All on one device and of one dtype."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        require(
            tensor.dtype == first.dtype,
            f"{name} is {_short(tensor.dtype)} and {first_name} {_short(first.dtype)}; they must be the same",
        )
        require(
            tensor.device == first.device,
            f"{name} is on {tensor.device} and {first_name} on {first.device}; they must be on one device",
        )


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...], why: str) -> None:
    """`why` says what the shape follows from."""
    require(
        tuple(tensor.shape) == expected,
        f"{name} has shape {tuple(tensor.shape)}; expected {expected}, from {why}",
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
