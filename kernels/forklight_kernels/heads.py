"""Several per-head tensors as one, without a copy where they are one. Legend: T tokens, H heads, D size."""

import torch
from torch import Tensor


def joined_heads(*parts_THD: Tensor) -> Tensor:
    """[T, H, parts * D], the parts side by side inside each head; a view if they were split from such."""
    first = parts_THD[0]
    num_tokens, num_heads, head_size = first.shape
    joined_size = len(parts_THD) * head_size
    strides = (num_heads * joined_size, joined_size, 1)
    step_bytes = head_size * first.element_size()
    is_joined = all(
        part.stride() == strides and part.data_ptr() == first.data_ptr() + number * step_bytes
        for number, part in enumerate(parts_THD)
    )
    if is_joined and num_tokens > 0:
        return first.as_strided((num_tokens, num_heads, joined_size), strides)
    return torch.cat(parts_THD, dim=-1)


def split_heads(joined_THW: Tensor, num_parts: int) -> tuple[Tensor, ...]:
    """The parts as views."""
    return joined_THW.chunk(num_parts, dim=-1)
