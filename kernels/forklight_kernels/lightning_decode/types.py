"""What a lightning layer remembers of its sequences, and how one decode step is asked for.

Legend: S slots, B sequences of a step, H heads, D head size, C = 64 places of the open chunk.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LightningMemory:
    """One layer's memory, updated in place. Two forms:

    - recurrent (the last three are None): the states after every token seen; each step rewrites them.
    - chunk: the states after the last whole chunk of 64 tokens, and the keys and values since then. A step
      appends, and rewrites the state once in 64 tokens; it computes a token exactly as the packed pass does.

    A sequence that has seen no token (chunk form: fewer than 64) has no state yet, whatever its slot holds.
    Slots may lie apart, as in pages; in the chunk form each is dense inside and begins at a multiple of 16
    bytes.
    """

    states_SHDD: Tensor
    """fp32."""
    rounded_SHDD: Tensor | None = None
    """The states in the activations' dtype: what q is multiplied with."""
    keys_SHCD: Tensor | None = None
    """The open chunk's keys, after silu. Places from the sequence's length on hold anything."""
    values_SHCD: Tensor | None = None
    """The open chunk's values, after silu."""

    @property
    def has_open_chunk(self) -> bool:
        return self.rounded_SHDD is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeStep:
    """Which sequences take a token."""

    slots_B: Tensor | None = None
    """Distinct slots of the memory; None: row b is slot b. Idle rows may share one of their own."""
    lengths_B: Tensor | None = None
    """Tokens each sequence has seen before this one; the caller advances them. Needed by the chunk form.
    A row of -1 is idle: its slot stays as it is, and its output is zeros."""
    applies_silu: bool = False
    """q, k, v are given before silu."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenChunk:
    """A chunk form's memory, its parts known to be there."""

    states_SHDD: Tensor
    rounded_SHDD: Tensor
    keys_SHCD: Tensor
    values_SHCD: Tensor


def open_chunk(memory: LightningMemory) -> OpenChunk:
    """The memory as its chunk form, or ValueError if parts are missing."""
    rounded, keys, values = memory.rounded_SHDD, memory.keys_SHCD, memory.values_SHCD
    if rounded is None or keys is None or values is None:
        raise ValueError(
            "memory has some of rounded_SHDD, keys_SHCD and values_SHCD but not all; give all three (chunk "
            "form) or none (recurrent form)"
        )
    return OpenChunk(states_SHDD=memory.states_SHDD, rounded_SHDD=rounded, keys_SHCD=keys, values_SHCD=values)
