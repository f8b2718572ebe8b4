"""Writes a run file back: resolved TOML, its JSON schema."""

from __future__ import annotations

import json

import tomli_w

from forklight_core.runfile.schema import RunFile


def dump_run_file(run_file: RunFile) -> str:
    """All values as TOML without comments; loading it gives an equal run file, absent options stay absent."""
    return tomli_w.dumps(run_file.model_dump(mode="python", exclude_none=True))


def describe() -> str:
    """JSON schema of the run file: every key with its type, bounds, default and explanation."""
    return json.dumps(RunFile.model_json_schema(), indent=2)
