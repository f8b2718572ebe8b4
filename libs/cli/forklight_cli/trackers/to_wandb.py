"""Weights & Biases: a run named as ours; where it goes, and whether it is offline, its own variables say."""

from __future__ import annotations

from collections.abc import Mapping

from forklight_cli.trackers.choose import Target, Tracker


def open_target(target: Target) -> Tracker:
    """The same run again when it was fed before."""
    import wandb

    target.folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=target.project,
        id=target.run_id,
        name=target.run_id,
        resume="allow",
        config=dict(target.keys),
        dir=str(target.folder),
    )
    run.define_metric("*", step_metric="step")
    return WandbTracker(run)


class WandbTracker:
    """Draws over our own step: its counter refuses to go back, and a run may."""

    def __init__(self, run: object) -> None:
        self._run = run

    def log(self, step: int, at: float, numbers: Mapping[str, float]) -> None:
        """One row."""
        row = {name.replace(".", "/"): value for name, value in numbers.items()}
        self._run.log({**row, "step": step, "_timestamp": at})  # type: ignore[attr-defined]

    def close(self) -> None:
        """Upload the rest."""
        self._run.finish()  # type: ignore[attr-defined]
