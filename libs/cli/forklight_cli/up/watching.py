"""A local run that Prometheus watches: an endpoint for each process, and the list of them as it reads one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from forklight_cli.run_folder import write_atomically
from forklight_cli.up.plan import SystemPlan

TARGETS = "prometheus_targets.json"


def target_groups(plan: SystemPlan) -> Sequence[dict[str, object]]:
    """What Prometheus' file_sd_configs read: where each process answers."""
    listening = [process.environment.get("FORKLIGHT_METRICS_LISTEN", "") for process in plan.processes]
    return [{"targets": [found], "labels": {"job": "forklight"}} for found in listening if found]


def write_targets(plan: SystemPlan) -> str:
    """Leave the list in the run folder; returns its path, empty when nothing listens."""
    groups = target_groups(plan)
    if not groups:
        return ""
    path = plan.folder.path / TARGETS
    write_atomically(path, json.dumps(groups, indent=1))
    return os.fspath(path)
