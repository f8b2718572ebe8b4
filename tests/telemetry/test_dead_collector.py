"""A service works, answers as fast and ends in time whatever its endpoint does; telemetry is off at first."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_core.errors import ConfigError
from forklight_core.ports import free_ports
from forklight_core.runfile import RunFile, dump_run_file
from forklight_core.settings import ServiceSettings, load_settings
from forklight_core.telemetry.exposition import serve_metrics
from forklight_core.telemetry.setup import END_S

ROOT = Path(__file__).parents[2]
NUM_CALLS = 40
SLOWER_S = 0.25
"""More than any call takes, less than any time-out of an exporter."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def call(self) -> float:
        """Seconds of one call."""
        with grpc.insecure_channel(self.address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel:
            grpc.channel_ready_future(channel).result(120)
            stub = rollout_pb2_grpc.RolloutStub(channel)
            started = time.monotonic()
            assert stub.GetRolloutStatus(rollout_pb2.GetRolloutStatusRequest(), timeout=30).pod == "small"
            return time.monotonic() - started


@contextmanager
def black_hole() -> Iterator[str]:
    """Connections are taken by the system and never answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def small_service(folder: Path, name: str, **environment: str) -> Iterator[Service]:
    run_file = folder / "run.toml"
    run_file.write_text(dump_run_file(RunFile()))
    address, log = f"127.0.0.1:{free_ports(1)[0]}", folder / f"{name}.log"
    told = {"RUN_FILE": str(run_file), "RUN_FOLDER": str(folder), "RUN_ID": "watched", "LISTEN": address}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.telemetry.small_service"],
            env={**os.environ, **{f"FORKLIGHT_{key}": value for key, value in (told | environment).items()}},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    try:
        yield Service(process, address, log)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(30)


def test_a_dead_collector_neither_slows_nor_stops_a_service(tmp_path: Path) -> None:
    with ExitStack() as stack:
        closed = f"http://127.0.0.1:{free_ports(1)[0]}"
        endpoints = {"off": "", "closed": closed, "black-hole": stack.enter_context(black_hole())}
        services = {
            name: stack.enter_context(small_service(tmp_path, name, OTLP_ENDPOINT=endpoint))
            for name, endpoint in endpoints.items()
        }
        seconds: dict[str, list[float]] = {name: [service.call()] for name, service in services.items()}
        for _ in range(NUM_CALLS):  # in turn, so that what else the machine does meets all of them
            for name, service in services.items():
                seconds[name].append(service.call())
        typical = {name: statistics.median(values) for name, values in seconds.items()}
        assert typical["closed"] < typical["off"] + SLOWER_S, typical
        assert typical["black-hole"] < typical["off"] + SLOWER_S, typical
        for service in services.values():
            service.process.send_signal(signal.SIGTERM)
        for name, service in services.items():
            assert service.process.wait(60) == 0, f"{name}\n{service.log.read_text()}"


def test_the_end_of_a_process_waits_for_a_dead_collector_only_so_long() -> None:
    """What is queued would take a time-out a batch: half a minute."""
    code = (
        "import sys, time; from forklight_core.telemetry import *\n"
        "from forklight_core.telemetry.setup import BATCH_SPANS\n"
        "stop = setup_telemetry('buffer', 'pod', Destinations(otlp_endpoint=sys.argv[1]))\n"
        "for _ in range(5 * BATCH_SPANS):\n"
        "    with span('x', sample_id='run/g00000001/s000'): pass\n"
        "started = time.monotonic(); stop(); print(time.monotonic() - started)"
    )
    with black_hole() as endpoint:
        done = subprocess.run(
            [sys.executable, "-c", code, endpoint], capture_output=True, text=True, check=True, timeout=120
        )
    assert float(done.stdout) < END_S + 10, done.stderr


def test_a_metrics_port_that_is_taken_is_told_and_nothing_stops(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve_metrics(f"127.0.0.1:{taken.getsockname()[1]}") is None
    assert [record.message for record in caplog.records] == ["metrics are not served"]


def test_telemetry_is_off_by_default_and_loads_nothing() -> None:
    settings = ServiceSettings(run_file=Path("run.toml"), run_folder=Path(), run_id="run")
    assert (settings.otlp_endpoint, settings.metrics_listen) == ("", "")
    code = (
        "import sys; from forklight_core.telemetry import *\n"
        "setup_telemetry('buffer', 'pod', Destinations())\n"
        "counter('forklight.buffer.conflicts').add(1)\n"
        "with span('x', sample_id='run/g00000001/s000') as made: assert not made.is_recording()\n"
        "print([name for name in sys.modules if name.startswith(('prometheus', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (
        done.stdout.strip() == "['forklight_core.telemetry.prometheus_names']" or done.stdout.strip() == "[]"
    )


@pytest.mark.parametrize("listen", ["9464", "localhost", "127.0.0.1:"])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    told = {"RUN_FILE": "run.toml", "RUN_FOLDER": ".", "RUN_ID": "run", "METRICS_LISTEN": listen}
    with pytest.raises(ConfigError, match="FORKLIGHT_METRICS_LISTEN"):
        load_settings(ServiceSettings, {f"FORKLIGHT_{key}": value for key, value in told.items()})
