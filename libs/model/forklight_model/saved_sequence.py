"""A sequence's memory on the host, while others use its place on the device.

Legend: F softmax layers, N pages of the sequence, G key heads, L places of a page, P head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedSequence:
    """What `HybridCache.save` took and `HybridCache.load` puts back. On a GPU its numbers arrive in stream
    order: only `load`, on the same stream, may read them without waiting."""

    slot_parts: tuple[Tensor, ...]
    """The slot's part of every memory that is kept by slot."""
    length_1: Tensor
    keys_FNGLP: Tensor
    values_FNGLP: Tensor

    @property
    def num_pages(self) -> int:
        return self.keys_FNGLP.shape[1]

    @property
    def num_bytes(self) -> int:
        """Host memory it takes."""
        parts = (*self.slot_parts, self.length_1, self.keys_FNGLP, self.values_FNGLP)
        return sum(part.nbytes for part in parts)


def copy_to_host(x: Tensor) -> Tensor:
    """A copy in host memory; from a GPU to pinned memory, without waiting."""
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda)
    return host.copy_(x, non_blocking=True)


def copy_pages_to_host(pages_FMGLP: Tensor, index_N: Tensor) -> Tensor:
    """These pages of every layer; a layer at a time, so that the device needs little room for it."""
    num_layers, _, *page = pages_FMGLP.shape
    host = torch.empty(
        (num_layers, len(index_N), *page), dtype=pages_FMGLP.dtype, pin_memory=pages_FMGLP.is_cuda
    )
    for layer, pages_MGLP in enumerate(pages_FMGLP):
        host[layer].copy_(pages_MGLP.index_select(0, index_N), non_blocking=True)
    return host


def copy_pages_from_host(host_FNGLP: Tensor, pages_FMGLP: Tensor, index_N: Tensor) -> None:
    """The way back, perhaps to other pages."""
    for host_NGLP, pages_MGLP in zip(host_FNGLP, pages_FMGLP, strict=True):
        pages_MGLP.index_copy_(0, index_N, host_NGLP.to(pages_MGLP.device, non_blocking=True))
