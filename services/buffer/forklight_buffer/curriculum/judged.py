"""How much of their weight judged prompts keep: the judge says so in its events while it pays for length."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence

from forklight.v1 import types_pb2
from forklight_buffer.ledger import ReportLedger
from forklight_buffer.prompts import Prompt

JUDGED_KIND = "judge"
RECALIBRATED = "judge_recalibrated"
EVENTS_AT_ONCE = 1000

log = logging.getLogger(__name__)


class JudgedWeight:
    """Follows the reported events; the newest word of the judge holds, and a restart reads it again."""

    def __init__(self, ledger: ReportLedger) -> None:
        self._ledger = ledger
        self._last_number = 0
        self.factor = 1.0
        """Times the weight of judged prompts."""

    def catch_up(self) -> None:
        """Read what was reported since."""
        while True:
            events = self._ledger.reported_events(
                after=self._last_number, limit=EVENTS_AT_ONCE, newest_first=False
            )
            for reported in events:
                self._last_number = reported.number
                event = types_pb2.RunEvent.FromString(reported.body)
                if event.kind == RECALIBRATED:
                    self.factor = weight_of(event.evidence_json, self.factor)
            if len(events) < EVENTS_AT_ONCE:
                return


def weight_of(evidence_json: str, before: float) -> float:
    """The `general_weight` of an event's evidence; what held before where there is no such number."""
    try:
        weight = json.loads(evidence_json)["general_weight"]
    except (ValueError, TypeError, KeyError):
        weight = None
    if isinstance(weight, int | float) and math.isfinite(weight) and 0.0 <= weight <= 1.0:
        return float(weight)
    log.warning("a judge's event says no general_weight from 0 to 1", extra={"evidence": evidence_json[:200]})
    return before


def judged_shares(prompts: Sequence[Prompt]) -> dict[str, float]:
    """By domain, the share of its prompts that only a judge can score."""
    counts: dict[str, list[int]] = {}
    for prompt in prompts:
        count = counts.setdefault(prompt.traits.domain, [0, 0])
        count[0] += prompt.kind == JUDGED_KIND
        count[1] += 1
    return {domain: num_judged / num_prompts for domain, (num_judged, num_prompts) in counts.items()}
