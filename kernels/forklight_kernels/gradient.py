"""What the hand-written gradients share: when one is needed, and the context autograd hands on."""

import torch
from torch import Tensor


class Context(torch.autograd.function.FunctionCtx):
    """Autograd's context, with the part of it that torch leaves untyped. Ops add their own attributes."""

    saved_tensors: tuple[Tensor, ...]


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Without a gradient to prepare for, the autograd wrapper is not worth its cost."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
