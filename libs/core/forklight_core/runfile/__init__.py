"""The run file: `load_run_file` reads and checks it, `dump_run_file` writes it back."""

from forklight_core.runfile.dump import describe, dump_run_file
from forklight_core.runfile.load import LoadedRunFile, load_run_file, load_with_sources, parse_override
from forklight_core.runfile.rules import find_contradictions
from forklight_core.runfile.schema import RunFile
from forklight_core.runfile.windows import first_window, largest_window

__all__ = [
    "LoadedRunFile",
    "RunFile",
    "describe",
    "dump_run_file",
    "find_contradictions",
    "first_window",
    "largest_window",
    "load_run_file",
    "load_with_sources",
    "parse_override",
]
