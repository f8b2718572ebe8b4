"""`python -m infra.grafana.build`: writes the dashboards' JSON; --check: says which is not up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from infra.grafana.fleet import FLEET
from infra.grafana.infrastructure import INFRASTRUCTURE
from infra.grafana.panels import Dashboard, render
from infra.grafana.rewards import REWARDS
from infra.grafana.run import RUN_BOARD

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS: tuple[Dashboard, ...] = (RUN_BOARD, FLEET, REWARDS, INFRASTRUCTURE)


def path_of(dashboard: Dashboard) -> Path:
    """Where its JSON lies."""
    return FOLDER / f"{dashboard.name}.json"


def stale() -> list[Path]:
    """Files that are not what the code says."""
    return [
        path_of(each)
        for each in DASHBOARDS
        if not path_of(each).exists() or path_of(each).read_text() != render(each)
    ]


def main() -> None:
    """Write, or check."""
    found = stale()
    if "--check" in sys.argv[1:]:
        for path in found:
            sys.stderr.write(f"{path} is not up to date: make dashboards\n")
        sys.exit(1 if found else 0)
    for each in DASHBOARDS:
        if path_of(each) in found:
            path_of(each).write_text(render(each))
            sys.stdout.write(f"{path_of(each)}\n")


if __name__ == "__main__":
    main()
