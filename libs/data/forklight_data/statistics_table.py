"""Statistics as a text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from forklight_data.statistics import Statistics

MOST_ROWS = 20
BAR = 40
BINS = ("never", *(f"{bin_ / 10:.1f}-{(bin_ + 1) / 10:.1f}" for bin_ in range(10)), "always")


def lines_of(found: Statistics) -> Iterator[str]:
    """A block each for what is counted."""
    yield f"records {found.num_records:,}   duplicates {found.num_duplicates:,}"
    for title, counts in (
        ("domain", found.by_domain),
        ("source", found.by_source),
        ("kind", found.by_kind),
        ("answer", found.by_answer),
        ("policy", found.by_policy),
    ):
        yield from _block(title, counts, found.num_records)
    for title, values in (("words", found.prompt_words), ("characters", found.prompt_characters)):
        if values:
            yield ""
            yield f"{title} of prompts: " + "  ".join(f"{name} {value:,}" for name, value in values.items())
    if sum(found.pass_rates):
        yield from _histogram(found.pass_rates)


def _block(title: str, counts: Counter[str], total: int) -> Iterator[str]:
    if not counts:
        return
    yield ""
    yield title
    for name, number in counts.most_common(MOST_ROWS):
        yield f"  {name[:40]:40} {number:>12,} {number / max(1, total):>7.1%}"
    if len(counts) > MOST_ROWS:
        yield f"  and {len(counts) - MOST_ROWS} more"


def _histogram(bins: list[int]) -> Iterator[str]:
    yield ""
    yield "pass rate"
    highest = max(bins)
    for name, number in zip(BINS, bins, strict=True):
        yield f"  {name:8} {number:>12,} {'#' * round(BAR * number / highest)}"
