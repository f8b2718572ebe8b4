"""What the audit knows of outcomes: a front that starts begins with the newest of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from forklight_core.errors import DataLossError
from forklight_reward.audit.chain import Body, read_body
from forklight_reward.audit.record import TYPE, read_verdict
from forklight_reward.audit.shard import SUFFIX
from forklight_reward.front.known import MOST_KEPT, KnownOutcomes

MOST_BYTES = 64 * 1024 * 1024

logger = logging.getLogger(__name__)


def recall_outcomes(folder: Path, known: KnownOutcomes) -> int:
    """Fill `known` from the newest files of all fronts; returns how many outcomes it has then.

    Lines are not proven here: a file that somebody forged is found by the check, not at every start.
    """
    newest: list[Body] = []
    num_bytes = 0
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda each: each.stat().st_mtime, reverse=True):
        if num_bytes >= MOST_BYTES or len(newest) >= MOST_KEPT:
            break
        found = list(_verdicts(path, MOST_BYTES - num_bytes))
        num_bytes += min(path.stat().st_size, MOST_BYTES)
        newest = [*found, *newest]
    for body in newest[-MOST_KEPT:]:
        try:
            stored = read_verdict(body)
        except DataLossError as error:
            logger.warning("an audit line is not used again", extra={"reason": str(error)})
            continue
        known.keep(stored.facts.work_key, stored.outcome)
    return len(known)


def _verdicts(path: Path, most_bytes: int) -> Iterator[Body]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most_bytes))
        if size > most_bytes:
            file.readline()  # the rest of a line
        for line in file:
            is_verdict = b'"type":"verdict"' in line[:64] and line.endswith(b"\n")
            if is_verdict and b'"tier":"inline"' not in line:
                try:
                    body = read_body(line)
                except DataLossError:
                    continue
                if body.get("type") == TYPE:
                    yield body
