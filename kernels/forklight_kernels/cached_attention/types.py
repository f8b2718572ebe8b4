"""The KV cache as the kernels see it: pages of places, and which page of a sequence is where.

Legend: P pages, G key heads, L places of a page, D head size, B sequences, N pages of a sequence.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyPages:
    """Keys and values of many sequences. Place p of sequence b is row p % L of page `table_BN[b, p // L]`."""

    keys_PGLD: Tensor
    values_PGLD: Tensor
    table_BN: Tensor | None = None
    """int32; None: page b holds the whole of sequence b."""

    @property
    def page_length(self) -> int:
        """Places of one page."""
        return self.keys_PGLD.shape[2]

    @property
    def capacity(self) -> int:
        """Places of one sequence."""
        return self.page_length * (1 if self.table_BN is None else self.table_BN.shape[1])

    @property
    def num_sequences(self) -> int:
        """Sequences that have pages."""
        return len(self.keys_PGLD if self.table_BN is None else self.table_BN)

    def per_sequence(self) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, N * L, D]: views without a table, gathered copies with one."""
        if self.table_BN is None:
            return self.keys_PGLD, self.values_PGLD
        keys_BGLD, values_BGLD = (
            pages_PGLD[self.table_BN].transpose(1, 2).flatten(2, 3)
            for pages_PGLD in (self.keys_PGLD, self.values_PGLD)
        )
        return keys_BGLD, values_BGLD
