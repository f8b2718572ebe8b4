"""Who owns which page of keys and values: counted, shared, never given out twice. Numbers only."""

from __future__ import annotations

from collections.abc import Sequence

SCRATCH_PAGE = 0
"""Written by rows that hold no sequence; nobody owns it."""


class PagePool:
    """Pages 1 to num_pages - 1 of a cache."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self.num_pages = num_pages - 1
        self._free = list(range(num_pages - 1, SCRATCH_PAGE, -1))
        self._owners = [0] * num_pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    def count_for(self, num_tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-num_tokens // self.page_tokens)

    def take(self, number: int) -> list[int]:
        """New pages with one owner; there must be as many."""
        if number > len(self._free):
            raise AssertionError(f"{number} pages asked for, {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(number)]
        for page in taken:
            self._owners[page] = 1
        return taken

    def share(self, pages: Sequence[int]) -> list[int]:
        """One more owner for each."""
        for page in pages:
            self._owners[page] += 1
        return list(pages)

    def give_back(self, pages: Sequence[int]) -> None:
        """One owner less for each; a page without owners is free."""
        for page in pages:
            self._owners[page] -= 1
            if self._owners[page] == 0:
                self._free.append(page)
            elif self._owners[page] < 0:
                raise AssertionError(f"page {page} was given back more often than it was taken")
