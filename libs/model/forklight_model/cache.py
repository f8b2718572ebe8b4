"""What generation remembers: slots for what has a fixed size, pages for what grows with a sequence.

A slot holds a sequence's lightning states and its length. Softmax layers (one in eight) keep keys and values
in pages of PAGE_TOKENS places; row s of the page table names the pages that slot s reads, in order. On a GPU
a lightning layer remembers its state at the start of the open chunk of 64 tokens, rounded as prefill rounds
it, and that chunk's keys and values: decode computes prefill's own bits.

No method but `fork` waits for a GPU; what they do happens in the order of the current stream.
Legend: A lightning layers, F softmax layers, S slots, N pages of a slot, M pages, L places of a page,
H heads, G key heads, P head size, C chunk, R numbers of a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_kernels import KeyPages, LightningMemory
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_model.cache_size import (
    PAGE_TOKENS,
    cache_bytes,
    columns_for,
    has_open_chunks,
    held_heads,
    page_bytes,
    slot_bytes,
    state_dtype,
)
from forklight_model.config import ModelConfig
from forklight_model.shard import WHOLE, Shard
from forklight_model.upload import upload

SCRATCH_PAGE = 0
"""Nobody's page: what a table names where its owner has written nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheForm:
    """How an engine's cache differs from one that looks after itself."""

    num_pages: int | None = None
    """Pages in all, the scratch page included, which the caller manages: table rows start as zeros. None:
    every slot owns its pages for good."""
    shard: Shard = WHOLE
    """Whose heads and key heads are held."""


class HybridCache:
    """Memory of `num_slots` sequences of up to `max_tokens` tokens each, prompt included."""

    def __init__(
        self,
        config: ModelConfig,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        form: CacheForm = CacheForm(),
    ) -> None:
        self.config, self.num_slots, self.max_tokens = config, num_slots, max_tokens
        self.is_managed = form.num_pages is not None
        """Whether a caller decides which page is whose."""
        self.num_columns = columns_for(max_tokens)
        self.num_pages = 1 + num_slots * self.num_columns if form.num_pages is None else form.num_pages
        self.lightning_place = {layer: place for place, layer in enumerate(config.lightning_layers)}
        self.softmax_place = {layer: place for place, layer in enumerate(config.softmax_layers)}
        self.has_open_chunks = has_open_chunks(device, dtype)
        heads, key_heads = held_heads(config, form.shard)
        head_dim, per_slot = config.head_dim, (len(self.lightning_place), num_slots, heads)
        states = torch.zeros(*per_slot, head_dim, head_dim, dtype=state_dtype(dtype), device=device)
        self.states_ASHPP = states
        self._rounded_ASHPP: Tensor | None = None
        self._open_keys_ASHCP: Tensor | None = None
        self._open_values_ASHCP: Tensor | None = None
        if self.has_open_chunks:
            self._rounded_ASHPP = torch.zeros_like(states, dtype=dtype)
            self._open_keys_ASHCP = torch.zeros(*per_slot, MAX_CHUNK, head_dim, dtype=dtype, device=device)
            self._open_values_ASHCP = torch.zeros_like(self._open_keys_ASHCP)
        page_shape = (len(self.softmax_place), self.num_pages, key_heads, PAGE_TOKENS, head_dim)
        self.keys_FMGLP = torch.zeros(page_shape, dtype=dtype, device=device)
        self.values_FMGLP = torch.zeros_like(self.keys_FMGLP)
        self.table_SN = self._first_table(states.device)
        """int32; the page of each slot's places 0 to 255, 256 to 511, ..."""
        self.lengths_S = torch.zeros(num_slots, dtype=torch.int64, device=device)
        """Tokens each slot has seen."""

    @property
    def device(self) -> torch.device:
        return self.lengths_S.device

    def lightning_memory(self, layer: int, slots: slice = slice(None)) -> LightningMemory:
        """One lightning layer's part, of all slots or a run of them."""
        place = self.lightning_place[layer]
        rounded, keys, values = (
            None if each is None else each[place, slots]
            for each in (self._rounded_ASHPP, self._open_keys_ASHCP, self._open_values_ASHCP)
        )
        return LightningMemory(
            states_SHDD=self.states_ASHPP[place, slots],
            rounded_SHDD=rounded,
            keys_SHCD=keys,
            values_SHCD=values,
        )

    def key_pages(self, layer: int, table_BN: Tensor) -> KeyPages:
        """One softmax layer's pages, as sequences with this table reach them."""
        place = self.softmax_place[layer]
        return KeyPages(
            keys_PGLD=self.keys_FMGLP[place], values_PGLD=self.values_FMGLP[place], table_BN=table_BN
        )

    def own_pages(self, slot: int, num_tokens: int) -> range:
        """The pages of a slot's first tokens, where every slot owns its pages."""
        self._require_managed(False, "own_pages")
        self._check("slot", [slot], self.num_slots)
        first = 1 + slot * self.num_columns
        return range(first, first + columns_for(num_tokens))

    @torch.inference_mode()
    def reset(self, slots: Sequence[int]) -> None:
        """Forget these slots' sequences. What their table rows name stays."""
        self._check("slot", slots, self.num_slots)
        index_R = upload(slots, self.device)
        self.states_ASHPP.index_fill_(1, index_R, 0)
        if self._rounded_ASHPP is not None:
            self._rounded_ASHPP.index_fill_(1, index_R, 0)
        self.lengths_S.index_fill_(0, index_R, 0)

    @torch.inference_mode()
    def set_length(self, slot: int, length: int) -> None:
        """Say how many tokens a slot has seen: of a sequence whose memory came from elsewhere."""
        self._check("slot", [slot], self.num_slots)
        self._check("length", [length], self.max_tokens + 1)
        self.lengths_S[slot].fill_(length)

    @torch.inference_mode()
    def copy_slot(self, from_slot: int, to_slots: Sequence[int]) -> None:
        """Give others a slot's states, open chunk and length; not its table row."""
        self._check_copy(from_slot, to_slots)
        for memory in self._slot_memories():
            for slot in to_slots:
                memory[:, slot].copy_(memory[:, from_slot])
        for slot in to_slots:
            self.lengths_S[slot].copy_(self.lengths_S[from_slot])

    @torch.inference_mode()
    def copy_table_row(self, from_slot: int, to_slots: Sequence[int]) -> None:
        """Let others read the pages that a slot reads."""
        self._require_managed(True, "copy_table_row")
        self._check_copy(from_slot, to_slots)
        for slot in to_slots:
            self.table_SN[slot].copy_(self.table_SN[from_slot])

    @torch.inference_mode()
    def write_table(self, slots: Sequence[int], columns: Sequence[int], pages: Sequence[int]) -> None:
        """Page `pages[i]` now holds column `columns[i]` of slot `slots[i]`. No pair twice."""
        self._require_managed(True, "write_table")
        if not len(slots) == len(columns) == len(pages):
            raise InvalidInputError(
                f"write_table got {len(slots)} slots, {len(columns)} columns and {len(pages)} pages; give as "
                "many of each"
            )
        self._check("slot", slots, self.num_slots)
        self._check("column", columns, self.num_columns)
        self._check("page", pages, self.num_pages)
        slots_R, columns_R, pages_R = upload([*slots, *columns, *pages], self.device).view(3, len(slots))
        self.table_SN[slots_R, columns_R] = pages_R.to(torch.int32)

    @torch.inference_mode()
    def clear_table(self, slots: Sequence[int]) -> None:
        """Let these slots read no page but the scratch page."""
        self._require_managed(True, "clear_table")
        self._check("slot", slots, self.num_slots)
        self.table_SN.index_fill_(0, upload(slots, self.device), SCRATCH_PAGE)

    @torch.inference_mode()
    def copy_pages(self, from_pages: Sequence[int], to_pages: Sequence[int]) -> None:
        """Copy the first of `from_pages` to the first of `to_pages`, and so on; none is in both."""
        if len(from_pages) != len(to_pages) or set(from_pages) & set(to_pages):
            raise InvalidInputError(
                f"copy_pages got {list(from_pages)} and {list(to_pages)}; give two lists of one length that "
                "share no page"
            )
        self._check("page", [*from_pages, *to_pages], self.num_pages)
        from_R, to_R = upload([*from_pages, *to_pages], self.device).view(2, len(to_pages))
        for pages_FMGLP in (self.keys_FMGLP, self.values_FMGLP):
            for pages_MGLP in pages_FMGLP:
                pages_MGLP.index_copy_(0, to_R, pages_MGLP.index_select(0, from_R))

    @torch.inference_mode()
    def fork(self, from_slot: int, to_slots: Sequence[int]) -> None:
        """Continue one slot's sequence in others as well (a group's samples share their prompt's prefill).

        For a cache whose slots own their pages; reads the length, which waits for a GPU.
        """
        self._require_managed(False, "fork")
        self.copy_slot(from_slot, to_slots)
        length = int(self.lengths_S[from_slot])
        from_pages = self.own_pages(from_slot, length)
        for slot in to_slots:
            self.copy_pages(from_pages, self.own_pages(slot, length))

    def _first_table(self, device: torch.device) -> Tensor:
        shape = (self.num_slots, self.num_columns)
        if self.is_managed:
            return torch.full(shape, SCRATCH_PAGE, dtype=torch.int32, device=device)
        return torch.arange(1, self.num_pages, dtype=torch.int32, device=device).view(shape)

    def _slot_memories(self) -> list[Tensor]:
        """Everything kept by layer and slot."""
        kept = (self.states_ASHPP, self._rounded_ASHPP, self._open_keys_ASHCP, self._open_values_ASHCP)
        return [memory for memory in kept if memory is not None]

    def _require_managed(self, is_managed: bool, method: str) -> None:
        if self.is_managed is not is_managed:
            owner = "the caller manages this cache's pages" if self.is_managed else "each slot owns its pages"
            raise InvalidInputError(
                f"{method} is not for a cache where {owner}; CacheForm.num_pages decides which it is"
            )

    def _check_copy(self, from_slot: int, to_slots: Sequence[int]) -> None:
        self._check("slot", [from_slot, *to_slots], self.num_slots)
        if from_slot in to_slots:
            raise InvalidInputError(f"slot {from_slot} cannot be copied onto itself")

    def _check(self, what: str, numbers: Sequence[int], total: int) -> None:
        for number in numbers:
            if not 0 <= number < total:
                raise InvalidInputError(
                    f"{what} {number} does not exist; the cache has {what}s 0 to {total - 1}"
                )


__all__ = [
    "PAGE_TOKENS",
    "SCRATCH_PAGE",
    "CacheForm",
    "HybridCache",
    "cache_bytes",
    "page_bytes",
    "slot_bytes",
]
