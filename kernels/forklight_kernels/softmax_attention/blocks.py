"""The part of the numeric contract that prefill, a prompt in pieces and decode share: how the keys are cut.

Every kernel of both ops follows the numbers here; two builds with different numbers give different bits.
"""

from dataclasses import dataclass

KEY_BLOCK = 64
"""Keys of one step of the online softmax."""

KEY_SPLIT = 4096
"""Keys of one online softmax that starts from empty; splits are merged in order."""

LOG2_E = 1.4426950408889634

ROW_SUM_COLUMNS = 16
"""Equal columns of the block of ones that sums a row on the tensor core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyGrid:
    """Blocks and splits, both counted from place 0 of each sequence. Only tests and sweeps make another."""

    block: int = KEY_BLOCK
    split: int = KEY_SPLIT

    def __post_init__(self) -> None:
        is_power = self.block & (self.block - 1) == 0
        if self.block < 16 or not is_power or self.split < self.block or self.split % self.block:
            raise ValueError(
                f"KeyGrid has block {self.block} and split {self.split}; the block must be a power of two, "
                f"at least 16, and the split a multiple of it"
            )


KEY_GRID = KeyGrid()


def score_scale(head_size: int) -> float:
    """1 / sqrt(D), in powers of two: every kernel computes exp2(fma(q.k, this, -maximum))."""
    return float(head_size**-0.5 * LOG2_E)
