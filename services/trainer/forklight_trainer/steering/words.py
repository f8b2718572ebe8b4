"""Decisions about the window, said in sentences with their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from forklight_trainer.steering.window import Decision, Move, Reason


def explain(decision: Decision) -> str:
    """What was decided, and by which numbers."""
    why = WHY[decision.reason].format_map({**decision.evidence, "trouble": _trouble(decision.evidence)})
    if decision.move is Move.HOLD:
        return f"window {decision.window}: {why}"
    return f"window {decision.before} -> {decision.window} tokens: {why}"


_TREND = "{perplexity_change:+.1%} (error {perplexity_error:.1%}) over {over_steps:.0f} steps"

WHY: Mapping[Reason, str] = {
    Reason.FIXED: "it is the only one",
    Reason.TROUBLED: "{trouble}; [length]'s limits are passed for {steps_troubled:.0f} steps in a row",
    Reason.YOUNG: "too early to tell, {steps_in_window:.0f} steps in it",
    Reason.LARGEST: "it is the largest",
    Reason.COOLING: "stepped back not long ago, {cool_down:.0f} steps until it may advance",
    Reason.SHORT: (
        "the 99th percentile of lengths fills {nearness:.0%} of it, {near:.0%} would be near; perplexity "
        f"changed by {_TREND}"
    ),
    Reason.MOVING: f"perplexity still moves, {_TREND}; {{converged:.1%}} would be converged",
    Reason.UNSURE: (
        f"perplexity changed by {_TREND}, too noisy to call converged at {{converged:.1%}}: more "
        "length.patience would tell"
    ),
    Reason.READY: (
        f"perplexity has converged, {_TREND}, and the 99th percentile of lengths fills {{nearness:.0%}} of "
        "the former window"
    ),
}


def _trouble(evidence: Mapping[str, float]) -> str:
    share, ratio = evidence["repeated_share"], evidence["tail_ratio"]
    found = [
        "" if math.isnan(share) else f"{share:.0%} of tokens repeat",
        "" if math.isnan(ratio) else f"tails have {ratio:.2f} times the perplexity of heads",
    ]
    return ", ".join(filter(None, found)) or "this step says nothing of repetition"
