"""`python -m forklight_buffer.audit RUN_FOLDER [--redis-url URL] [--json]`: exit code 0 when nothing is
wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from forklight_buffer.audit import audit_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit a run folder and say what was found."""
    parser = argparse.ArgumentParser(prog="forklight_buffer.audit", description="Audit the ledger of a run.")
    parser.add_argument("run_folder", type=Path, help="folder with ledger.sqlite")
    parser.add_argument("--redis-url", help="server that holds the run's open samples")
    parser.add_argument("--json", action="store_true", help="for programs")
    chosen = parser.parse_args(arguments)
    report = audit_run(chosen.run_folder, chosen.redis_url)
    sys.stdout.write((report.to_json() if chosen.json else report.to_table()) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
