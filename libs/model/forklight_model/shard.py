"""Which part of every layer a process of a tensor-parallel engine holds.

Work is cut along outputs only (heads, rows of a weight matrix), never along a sum: each number is computed by
one process exactly as a single one would, so the bits do not depend on how many share the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from forklight_core.errors import ConfigError
from forklight_model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Process `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank} of {self.size} processes does not exist; ranks count from 0")

    @property
    def is_whole(self) -> bool:
        return self.size == 1

    def part(self, total: int, what: str) -> slice:
        """The outputs (heads, rows, columns) of `total` that are this process's; every one has as many."""
        if total % self.size:
            raise ConfigError(
                f"{what} = {total} cannot be cut into {self.size} equal parts: "
                "use a number of GPUs a pod that divides it"
            )
        width = total // self.size
        return slice(self.rank * width, (self.rank + 1) * width)

    def num(self, total: int, what: str) -> int:
        """How many of `total` are this process's."""
        self.part(total, what)
        return total // self.size

    def index(self, name: str, whole_shape: Sequence[int]) -> tuple[slice, ...]:
        """This process's part of a published tensor, as an index of it."""
        dim = cut_dim(name)
        return tuple(
            self.part(length, name) if place == dim else slice(0, length)
            for place, length in enumerate(whole_shape)
        )

    def whole_shape(self, name: str, part_shape: Sequence[int]) -> tuple[int, ...]:
        """The published shape of a tensor of which this process holds a part of that shape."""
        dim = cut_dim(name)
        return tuple(
            length * self.size if place == dim else length for place, length in enumerate(part_shape)
        )


WHOLE = Shard()


def cut_dim(name: str) -> int | None:
    """The dim along which a published tensor is cut; None where every process holds all of it.

    Matrices lie as [outputs, inputs] and are cut into rows; the embedding's outputs are its columns.
    """
    if name.endswith("embed_tokens.weight"):
        return 1
    return None if name.endswith(("norm.weight", "block_sparse_moe.gate.weight")) else 0


def check_cut(config: ModelConfig, shard: Shard) -> None:
    """ConfigError where a layer of this model has outputs that do not divide."""
    for what in (
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
    ):
        shard.part(getattr(config, what), what)
