"""MLflow: the server or store of MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
from collections.abc import Mapping

from forklight_cli.trackers.choose import Target, Tracker
from forklight_core.errors import ConfigError

MOST_PARAMETER_CHARACTERS = 500
PARAMETERS_AT_ONCE = 100
ADDRESS = "MLFLOW_TRACKING_URI"
OUR_TAG = "forklight.run_id"


def open_target(target: Target) -> Tracker:
    """The same run again when it was fed before: it carries our run id as a tag."""
    from mlflow.entities import Param
    from mlflow.tracking import MlflowClient

    if not os.environ.get(ADDRESS):
        raise ConfigError(f"{ADDRESS} is not set: name the MLflow server, for example http://mlflow:5000")
    client = MlflowClient()
    experiment = client.get_experiment_by_name(target.project)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(target.project)
    found = client.search_runs([experiment_id], f"tags.`{OUR_TAG}` = '{target.run_id}'", max_results=1)
    if found:
        return MlflowTracker(client, found[0].info.run_id)
    run = client.create_run(experiment_id, run_name=target.run_id, tags={OUR_TAG: target.run_id})
    params = [Param(name, value[:MOST_PARAMETER_CHARACTERS]) for name, value in target.keys.items()]
    for start in range(0, len(params), PARAMETERS_AT_ONCE):
        client.log_batch(run.info.run_id, params=params[start : start + PARAMETERS_AT_ONCE])
    return MlflowTracker(client, run.info.run_id)


class MlflowTracker:
    """One batch of metrics a step."""

    def __init__(self, client: object, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log(self, step: int, at: float, numbers: Mapping[str, float]) -> None:
        """All numbers of the step in one call."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name.replace(".", "/"), value, int(at * 1000), step) for name, value in numbers.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Nothing is held back; the run stays open for more."""
