"""Whether an op must leave something for a backward pass. Without one the autograd wrapper is not worth its cost."""

import torch
from torch import Tensor


def needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
