"""The order in which a process sends its rows away: by expert, then token, then slot.

Legend: T tokens, K slots, R = T * K rows, E experts of all processes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceOrder:
    """All on the device; nothing here waits for it."""

    row_R: Tensor
    """Number (token * K + slot) of each row in the order of sending."""
    token_R: Tensor
    """Its token."""
    place_TK: Tensor
    """Place of each (token, slot) in it."""
    counts_E: Tensor
    """Rows for each expert, int64."""


def order_by_expert(experts_TK: Tensor, num_experts: int) -> SourceOrder:
    """A stable sort. Expert numbers out of range count as the nearest one, so that no count is lost."""
    num_rows, top_k = experts_TK.numel(), experts_TK.shape[1]
    flat_R = experts_TK.reshape(-1).clamp(0, num_experts - 1).to(torch.int32)
    sorted_R, order_R = torch.sort(flat_R, stable=True)
    device = flat_R.device
    bounds_E = torch.arange(num_experts + 1, dtype=torch.int32, device=device)
    starts_E = torch.searchsorted(sorted_R, bounds_E)
    place_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(num_rows, device=device))
    return SourceOrder(
        row_R=order_R,
        token_R=order_R.div(top_k, rounding_mode="floor"),
        place_TK=place_R.view(experts_TK.shape),
        counts_E=starts_E[1:] - starts_E[:-1],
    )
