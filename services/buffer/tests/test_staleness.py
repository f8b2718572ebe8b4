"""Admission as arithmetic: the inequality, the other bounds, and bounds that can never be met."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forklight_buffer.live import Standing
from forklight_buffer.staleness import (
    Limits,
    Refusal,
    count_admitted,
    find_dead_end,
    find_refusal,
    staleness_capacity,
)

LIMITS = Limits(
    max_staleness=1,
    groups_per_step=4,
    updates_per_version=2,
    max_open_groups=100,
    max_open_tokens=10_000,
    max_open_bytes=1_000_000,
    group_tokens=20,
)
EMPTY = Standing(
    window=10,
    version=0,
    step=0,
    open_groups=0,
    ready_groups=0,
    leased_groups=0,
    evaluating_groups=0,
    held_tokens=0,
    held_bytes=0,
)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({}, None),
        ({"open_groups": 8, "ready_groups": 4, "leased_groups": 4}, Refusal.STALENESS),
        ({"open_groups": 8, "ready_groups": 4, "leased_groups": 3}, None),
        ({"step": 4}, Refusal.STALENESS),
        ({"step": 4, "version": 1}, None),
        ({"open_groups": 100, "version": 50}, Refusal.GROUPS),
        ({"held_tokens": 9_981}, Refusal.TOKENS),
        ({"held_tokens": 9_980}, None),
        ({"held_bytes": 999_681}, Refusal.BYTES),
    ],
)
def test_the_first_broken_bound_is_named(change: dict[str, int], refusal: Refusal | None) -> None:
    assert find_refusal(replace(EMPTY, **change), LIMITS) is refusal


def test_groups_are_admitted_up_to_the_bound_when_many_are_asked_for() -> None:
    assert count_admitted(EMPTY, LIMITS, most=64) == 16
    assert count_admitted(EMPTY, LIMITS, most=5) == 5


@given(version=st.integers(0, 50), updates_behind=st.integers(0, 1), staleness=st.integers(0, 4))
def test_a_group_is_never_too_old_when_steps_consume_in_order(
    version: int, updates_behind: int, staleness: int
) -> None:
    """The last group admitted at a version is trained within max_staleness versions."""
    limits = replace(LIMITS, max_staleness=staleness, max_open_tokens=10**9, max_open_bytes=10**9)
    step = max(0, version * limits.updates_per_version - updates_behind)
    capacity = staleness_capacity(replace(EMPTY, version=version, step=step), limits)
    last_step = step + -(-capacity // limits.groups_per_step)
    version_when_trained = (last_step - 1) // limits.updates_per_version
    assert version_when_trained - version <= staleness


def test_a_dead_end_is_named_when_one_group_exceeds_the_credit() -> None:
    reason = find_dead_end(EMPTY, replace(LIMITS, group_tokens=20_000))
    assert "buffer.max_open_tokens" in reason and "20000" in reason
    assert "buffer.max_open_bytes" in find_dead_end(EMPTY, replace(LIMITS, max_open_bytes=10))


def test_a_dead_end_is_named_when_ready_groups_hold_all_credit() -> None:
    full = replace(EMPTY, ready_groups=3, held_tokens=9_990)
    assert "3 ready groups of the 4" in find_dead_end(full, LIMITS)
    assert not find_dead_end(replace(full, ready_groups=4), LIMITS)
    assert not find_dead_end(replace(full, open_groups=1), LIMITS)
    assert not find_dead_end(replace(full, leased_groups=4), LIMITS)
