"""One short run, watched by an OTLP receiver and, where it is installed, by a real Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.harness import RunningSystem
from tests.chaos.short_run import write_short_run
from tests.telemetry.collector import Collector, run_collector
from tests.telemetry.prometheus_server import missing, run_prometheus
from tests.telemetry.rules import RULES
from tests.telemetry.watched_run import STEPS, WatchedRun


@pytest.fixture(scope="session")
def watched_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedRun]:
    folder = tmp_path_factory.mktemp("telemetry")
    with ExitStack() as stack:
        receiver = stack.enter_context(run_collector())
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("FORKLIGHT_METRICS_LISTEN", "127.0.0.1:0")
        prometheus = None
        if not missing("prometheus"):
            targets = folder / "run" / "prometheus_targets.json"
            prometheus = stack.enter_context(
                run_prometheus(folder / "prometheus", targets=targets, rules=RULES / "*.yaml")
            )
        extra = f'[telemetry]\notlp_endpoint = "{receiver.endpoint}"\n'
        started = time.time()
        system = RunningSystem(write_short_run(folder / "data", steps=STEPS, extra=extra), folder / "run")
        stack.callback(system.stop)
        assert system.wait_end(deadline_s=240) == 0, system.tail()
        run_id = json.loads((folder / "run" / "system.json").read_text())["run_id"]
        yield WatchedRun(
            folder=folder / "run",
            run_id=run_id,
            receiver=receiver,
            prometheus=prometheus,
            times=(started, time.time()),
        )


@pytest.fixture
def collector(watched_run: WatchedRun) -> Collector:
    return watched_run.receiver
