"""The format part of a reward: one <think>...</think>, and exactly one box, outside it."""

from __future__ import annotations

from forklight_reward.verifier.extract import BOX, THINK_CLOSE, THINK_OPEN, box_content


def is_well_formed(response: str) -> bool:
    """True when the response thinks once and then answers in one closed box."""
    if response.count(THINK_OPEN) != 1 or response.count(THINK_CLOSE) != 1:
        return False
    before, _, rest = response.partition(THINK_OPEN)
    thinking, closed, final = rest.partition(THINK_CLOSE)
    if not closed or before.strip() or not thinking.strip():
        return False
    if final.count(BOX) != 1:
        return False
    content = box_content(final, final.index(BOX))
    return content is not None and bool(content.strip())


def format_score(response: str) -> float:
    """1 for a well-formed response, else 0."""
    return 1.0 if is_well_formed(response) else 0.0
