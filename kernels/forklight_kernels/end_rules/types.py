"""What the end rules read and write: one row a running sequence. Legend: B sequences, K stop ids."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class EndColumns:
    """State, rules and answers of a batch. Every tensor is contiguous; the rules are only read."""

    is_live_B: Tensor
    """int64; 1 while the sequence goes on, 0 after. A row of 0 is left alone."""
    num_tokens_B: Tensor
    """int64; tokens of the response so far."""
    max_tokens_B: Tensor
    """int64; the response's limit."""
    num_certain_B: Tensor
    """int32; near-certain tokens in a row, up to the last one."""
    certain_limits_B: Tensor
    """int32; so many in a row are a repetition; 0: never."""
    certain_logprobs_B: Tensor
    """fp32; a token is near-certain when its raw log-probability is more than this."""
    stop_ids_BK: Tensor
    """int64; ids that end the sequence, padded with -1."""
    reasons_B: Tensor
    """uint8, out: why the row ended with this token, an `EndReason`."""
    last_ids_B: Tensor
    """int64, out: the token drawn, which is the next step's input."""
    positions_B: Tensor
    """int64; position of the next draw."""
