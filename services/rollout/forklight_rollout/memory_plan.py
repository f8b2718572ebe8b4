"""How many sequences fit into memory, decided once at start and never exceeded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import ConfigError

PROMPT_SLOTS_SHARE = 16
"""One slot in so many holds a prompt, or the turn of a conversation that may go on."""
LONG_TAIL = 4
"""A batch is planned for a quarter of the longest length on average: lengths have a long tail. Should more
sequences grow long, the youngest wait."""
RESERVED_SHARE = 8
"""Prompts leave one page for so many running sequences free: something to grow into."""
AUTOMATIC_SHARE = 4
"""Without a setting, the caches may take this fraction (1/n) of the memory that is free at start."""
LENGTHS = (8_192, 32_768, 81_920)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCosts:
    """What a cache is made of."""

    slot_bytes: int
    page_bytes: int
    page_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The shape of the cache."""

    num_sequences: int  # decoded together
    num_prompt_slots: int
    max_tokens: int  # prompt and response of one sequence
    num_pages: int  # the scratch page included
    num_reserved_pages: int  # that prompts leave to running sequences
    page_tokens: int
    cache_bytes: int
    budget_bytes: int

    @property
    def num_slots(self) -> int:
        return self.num_sequences + self.num_prompt_slots

    def count_fitting(self, num_tokens: int) -> int:
        """Sequences of this length that can be decoded together."""
        return min(self.num_sequences, (self.num_pages - 1) // -(-num_tokens // self.page_tokens))

    def lengths_that_fit(self) -> dict[str, int]:
        """For the log: how many sequences fit at some lengths."""
        lengths = {*(length for length in LENGTHS if length < self.max_tokens), self.max_tokens}
        return {f"fit_{length}_tokens": self.count_fitting(length) for length in sorted(lengths)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryWish:
    """What the run file and the settings ask for."""

    max_batch: int
    max_prompt_tokens: int
    max_new_tokens: int
    budget_bytes: int  # 0: automatic


def plan_memory(wish: MemoryWish, costs: CacheCosts, *, max_positions: int) -> MemoryPlan:
    """The largest batch up to the wish whose caches fit, and all the pages that the rest holds."""
    max_tokens = min(wish.max_prompt_tokens + wish.max_new_tokens, max_positions)
    if max_tokens <= wish.max_new_tokens:
        raise ConfigError(
            f"sampling.max_new_tokens = {wish.max_new_tokens} leaves no room for a prompt within the model's "
            f"{max_positions} positions: lower it to {max(1, max_positions - wish.max_prompt_tokens)} or less"
        )
    budget = wish.budget_bytes or available_bytes() // AUTOMATIC_SHARE
    for num_sequences in range(wish.max_batch, 0, -1):
        plan = _plan_batch(num_sequences, max_tokens, costs, budget)
        if plan is not None:
            return plan
    needed = (1 + num_prompt_slots(1)) * costs.slot_bytes + _least_pages(
        1, max_tokens, costs.page_tokens
    ) * costs.page_bytes
    raise ConfigError(
        f"one sequence of {max_tokens} tokens and its prompt need {needed} cache bytes, {budget} are there: "
        "lower sampling.max_new_tokens or set FORKLIGHT_CACHE_MEMORY_BYTES"
    )


def _plan_batch(num_sequences: int, max_tokens: int, costs: CacheCosts, budget: int) -> MemoryPlan | None:
    """None when so many do not fit."""
    num_prompts, columns = num_prompt_slots(num_sequences), -(-max_tokens // costs.page_tokens)
    slots_bytes = (num_sequences + num_prompts) * costs.slot_bytes
    least = _least_pages(num_sequences, max_tokens, costs.page_tokens)
    most = 1 + (num_sequences + num_prompts) * columns + _num_reserved(num_sequences)
    num_pages = min(most, (budget - slots_bytes) // costs.page_bytes)
    if num_pages < least:
        return None
    return MemoryPlan(
        num_sequences=num_sequences,
        num_prompt_slots=num_prompts,
        max_tokens=max_tokens,
        num_pages=num_pages,
        num_reserved_pages=_num_reserved(num_sequences),
        page_tokens=costs.page_tokens,
        cache_bytes=slots_bytes + num_pages * costs.page_bytes,
        budget_bytes=budget,
    )


def _least_pages(num_sequences: int, max_tokens: int, page_tokens: int) -> int:
    """So many that one sequence can always reach the longest length, and that a batch is worth its slots."""
    columns = -(-max_tokens // page_tokens)
    planned = columns + (num_sequences - 1) * -(-columns // LONG_TAIL)
    return 1 + planned + _num_reserved(num_sequences)


def _num_reserved(num_sequences: int) -> int:
    return max(2, num_sequences // RESERVED_SHARE)


def num_prompt_slots(num_sequences: int) -> int:
    """Slots beside the running ones in which prompts are prefilled and kept until their group is forked."""
    return max(2, num_sequences // PROMPT_SLOTS_SHARE)


def available_bytes() -> int:
    """Memory this process may still take: what the machine has free, or less where a cgroup says so."""
    found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            found = [int(line.split()[1]) * 1024]
    limit, used = _lines(Path("/sys/fs/cgroup/memory.max")), _lines(Path("/sys/fs/cgroup/memory.current"))
    if limit and used and limit[0].isdigit():
        found.append(max(0, int(limit[0]) - int(used[0])))
    return min(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
