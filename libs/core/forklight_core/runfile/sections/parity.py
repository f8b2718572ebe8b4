"""The gate on train/rollout mismatch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forklight_core.runfile.sections.section import Fraction, Section


class ParitySection(Section):
    """The gate on train/rollout mismatch."""

    min_correlation: Fraction = 0.99
    """Pause the run when the correlation of the two probabilities falls under this."""
    max_mean_kl: Annotated[float, Field(gt=0.0)] = 0.05
    """Pause the run when the mean KL of rollout to trainer rises above this."""
    require_equal: bool = False
    """In parity mode, pause the run when a single log-prob of rollout and trainer differs in bits."""
    routing_replay: bool = False
    """Score with the experts that rollout chose. Adds 5 bytes a token, layer and expert to payloads."""
