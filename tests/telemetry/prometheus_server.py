"""A real Prometheus that scrapes the processes of one run folder, and questions to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from forklight_core.ports import free_ports

INSTALL = "is not installed: apt-get install prometheus (it brings promtool)"
CONFIG = Path(__file__).parents[2] / "infra" / "prometheus" / "prometheus.yaml"


def missing(tool: str) -> str:
    """Why a test that needs the tool is skipped; empty when it is there."""
    return "" if shutil.which(tool) else f"{tool} {INSTALL}"


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """A running one."""

    address: str

    def get(self, path: str, **query: str) -> object:
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str, start: float, end: float) -> Sequence[dict[str, object]]:
        """Every series that an expression has had a value for in a range."""
        found = self.get(
            "/api/v1/query_range", query=expression, start=f"{start:.3f}", end=f"{end:.3f}", step="1"
        )
        assert isinstance(found, dict)
        return list(found["result"])

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def run_prometheus(folder: Path, *, targets: Path, rules: Path) -> Iterator[PrometheusServer]:
    """Scrape what is named in `targets`, a second apart, until the block ends."""
    folder.mkdir(parents=True)
    config = folder / "prometheus.yaml"
    content = yaml.safe_load(CONFIG.read_text()) | {"rule_files": [str(rules)]}
    content["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    content["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(targets)], "refresh_interval": "1s"}]
    config.write_text(yaml.safe_dump(content))
    server = PrometheusServer(f"127.0.0.1:{free_ports(1)[0]}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={server.address}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        end = time.monotonic() + 30
        while not server.is_ready():
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(30)
