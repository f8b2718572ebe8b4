"""What decoding needs to know of each running sequence, as columns whose first n places are the running ones.

Legend: S places, B running sequences (the first of them), M sequences just added (the last of those).
"""

from __future__ import annotations

import torch
from torch import Tensor

from forklight_kernels import SamplingRequest
from forklight_model.cache import HybridCache
from forklight_rollout.adapters.prompts import Prompt


class DecodeBatch:
    """Sequence i is in cache slot i; removing one moves the last into its place, cache included."""

    def __init__(self, cache: HybridCache, num_places: int) -> None:
        self._cache = cache
        self._places: dict[int, int] = {}
        self.keys: list[int] = []
        """Key of each running sequence, in the order of their slots."""
        device = cache.lengths_S.device
        self._slots_S = torch.arange(num_places, dtype=torch.int64, device=device)
        self._last_ids_S = torch.zeros_like(self._slots_S)
        self._seeds_S = torch.zeros_like(self._slots_S)
        self._positions_S = torch.zeros_like(self._slots_S)
        self._temperatures_S = torch.ones(num_places, device=device)
        self._top_ps_S = torch.ones_like(self._temperatures_S)
        self._filtered_keys: set[int] = set()

    @property
    def slots_B(self) -> Tensor:
        return self._slots_S[: len(self.keys)]

    @property
    def last_ids_B(self) -> Tensor:
        return self._last_ids_S[: len(self.keys)]

    @property
    def request(self) -> SamplingRequest:
        """How each running sequence draws its next token."""
        return self._request(slice(0, len(self.keys)))

    def advance(self, ids_B: Tensor) -> None:
        """Each running sequence has drawn a token."""
        self._last_ids_S[: len(ids_B)] = ids_B
        self._positions_S[: len(ids_B)] += 1

    def append(self, prompt: Prompt) -> SamplingRequest:
        """Give a prompt's waiting sequences places and its cache; returns how to draw their first tokens."""
        first = len(self.keys)
        added = slice(first, first + len(prompt.waiting))
        for place, start in enumerate(prompt.waiting, start=first):
            self._places[start.key] = place
            self.keys.append(start.key)
            if prompt.top_p < 1:
                self._filtered_keys.add(start.key)
        self._cache.fork(prompt.slot, range(added.start, added.stop))
        seeds = [_signed(start.seed) for start in prompt.waiting]
        self._seeds_S[added] = torch.tensor(seeds, device=self._seeds_S.device)
        # Counted from the start of the prompt, as `forklight_model.generate` does: same seed, same tokens.
        self._positions_S[added] = len(prompt.ids_T)
        self._temperatures_S[added] = prompt.temperature
        self._top_ps_S[added] = prompt.top_p
        return self._request(added)

    def start(self, ids_M: Tensor) -> None:
        """The sequences appended last have drawn their first tokens."""
        added = slice(len(self.keys) - len(ids_M), len(self.keys))
        self._last_ids_S[added] = ids_M
        self._positions_S[added] += 1

    def remove(self, key: int) -> bool:
        """Give a sequence's place to the last one; False when it is not running."""
        place = self._places.pop(key, None)
        if place is None:
            return False
        self._filtered_keys.discard(key)
        last = len(self.keys) - 1
        moved = self.keys.pop()
        if place != last:
            self._move(last, place)
            self.keys[place] = moved
            self._places[moved] = place
        return True

    def _move(self, source: int, target: int) -> None:
        self._cache.fork(source, [target])
        for column_S in (
            self._last_ids_S,
            self._seeds_S,
            self._positions_S,
            self._temperatures_S,
            self._top_ps_S,
        ):
            column_S[target] = column_S[source]

    def _request(self, places: slice) -> SamplingRequest:
        return SamplingRequest(
            temperatures_B=self._temperatures_S[places],
            top_ps_B=self._top_ps_S[places],
            seeds_B=self._seeds_S[places],
            positions_B=self._positions_S[places],
            # Known here without asking the device: a GPU then need not look for a nucleus.
            is_filtered=bool(self._filtered_keys),
        )


def _signed(seed: int) -> int:
    """The same 64 bits as torch holds them."""
    return seed - 2**64 if seed >= 2**63 else seed
