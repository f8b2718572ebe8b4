"""How lightning attention is asked for. Legend: N sequences, H heads, D head size."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LightningForm:
    """Variants of the op; the default starts from zero states and takes q, k, v as they are."""

    initial_state: Tensor | None = None
    """State before each sequence's first token, fp32 [N, H, D, D]."""
    applies_silu: bool = False
    """q, k, v are given before silu, and so are their gradients."""
    keeps_open_chunk: bool = False
    """The states returned are those after each sequence's last whole chunk of 64 tokens, and carry no
    gradient: a decode memory holds what comes after it as an open chunk."""
