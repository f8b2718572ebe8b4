"""Which part of every layer a process of a tensor-parallel engine holds.

Work is cut along outputs only (heads, rows of a weight matrix), never along a sum: each number is computed by
one process exactly as a single one would, so the bits do not depend on how many share the work.
"""

from dataclasses import dataclass

from forklight_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Process `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def part(self, total: int, what: str) -> slice:
        """The outputs (heads, rows, columns) of `total` that are this process's; every one has as many."""
        if total % self.size:
            raise ConfigError(
                f"{what} = {total} cannot be cut into {self.size} equal parts: use a number of GPUs a pod that "
                "divides it"
            )
        width = total // self.size
        return slice(self.rank * width, (self.rank + 1) * width)


WHOLE = Shard()
