"""The end of a sample's trace: the update that learned from it, linked to the step it was part of."""

from __future__ import annotations

from collections.abc import Sequence

from forklight_core import ids
from forklight_core.telemetry import emit_linked_span
from forklight_trainer.batches.batch import TrainingBatch

UPDATE_SPAN = "trainer.update"
STEP_SPAN = "trainer.step"


def trace_samples(
    batch: TrainingBatch, advantages: Sequence[float], *, start_s: float, end_s: float, step_traceparent: str
) -> None:
    """One span a sample, in the sample's own trace. Nothing happens when nothing is traced."""
    if not step_traceparent:
        return
    for sample, advantage in zip(batch.samples, advantages, strict=True):
        emit_linked_span(
            UPDATE_SPAN,
            traceparent=sample.traceparent or ids.sample_traceparent(sample.sample_id),
            start_s=start_s,
            end_s=end_s,
            linked=step_traceparent,
            attributes={
                "rl.sample.id": sample.sample_id,
                "rl.group.id": ids.group_of(sample.sample_id),
                "rl.step": batch.step,
                "rl.advantage": advantage,
                "rl.reward": sample.reward,
            },
        )
