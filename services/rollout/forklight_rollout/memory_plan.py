"""How many sequences fit into memory, decided once at start and never exceeded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import ConfigError

PROMPT_SLOTS_SHARE = 16
"""One slot in so many holds a prompt that waits to be forked."""
AUTOMATIC_SHARE = 4
"""Without a setting, the caches may take this fraction (1/n) of the memory that is free at start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The shape of the cache."""

    num_sequences: int
    num_prompt_slots: int
    max_tokens: int  # prompt and response of one sequence
    cache_bytes: int
    budget_bytes: int

    @property
    def num_slots(self) -> int:
        return self.num_sequences + self.num_prompt_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryWish:
    """What the run file and the settings ask for."""

    max_batch: int
    max_prompt_tokens: int
    max_new_tokens: int
    budget_bytes: int  # 0: automatic


def plan_memory(
    wish: MemoryWish, *, max_positions: int, slots_bytes: Callable[[int, int], int]
) -> MemoryPlan:
    """The largest batch up to the wish whose caches fit; `slots_bytes(slots, tokens)` is the model's."""
    max_tokens = min(wish.max_prompt_tokens + wish.max_new_tokens, max_positions)
    if max_tokens <= wish.max_new_tokens:
        raise ConfigError(
            f"sampling.max_new_tokens = {wish.max_new_tokens} leaves no room for a prompt within the model's "
            f"{max_positions} positions: lower it to {max(1, max_positions - wish.max_prompt_tokens)} or less"
        )
    budget = wish.budget_bytes or available_bytes() // AUTOMATIC_SHARE
    for num_sequences in range(wish.max_batch, 0, -1):
        num_prompts = num_prompt_slots(num_sequences)
        needed = slots_bytes(num_sequences + num_prompts, max_tokens)
        if needed <= budget:
            return MemoryPlan(
                num_sequences=num_sequences,
                num_prompt_slots=num_prompts,
                max_tokens=max_tokens,
                cache_bytes=needed,
                budget_bytes=budget,
            )
    raise ConfigError(
        f"one sequence of {max_tokens} tokens and its prompt need {slots_bytes(2, max_tokens)} cache bytes, "
        f"{budget} may be used: lower sampling.max_new_tokens or set FORKLIGHT_CACHE_MEMORY_BYTES"
    )


def num_prompt_slots(num_sequences: int) -> int:
    """Slots beside the running ones in which prompts are prefilled and kept until their group is forked."""
    return max(1, num_sequences // PROMPT_SLOTS_SHARE)


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
