"""The program of a repository job: lays the tree out, runs test ids with pytest, reports in one line.

Its text goes into the jail; it imports nothing of ours. What it reports counts only together with the exit
code and with a sentinel that failed in the same tree.
"""

from __future__ import annotations

import json
import marshal
import os
import sys
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER, spec_from_loader

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would cost milliseconds in every jail
    from types import CodeType, ModuleType
    from typing import Any

ROOT = "repo"
CHANNEL_FD = 40
MESSAGE_CHARACTERS = 300


class Packed(MetaPathFinder, InspectLoader):
    """Finds the modules of pytest in the job's input: no file in the tree can take their place."""

    def __init__(self, modules: dict[str, tuple[bool, bytes, str]], magic: bytes) -> None:
        self._modules = modules
        self._is_compiled = magic == MAGIC_NUMBER

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Part of the import system."""
        del path, target
        if name not in self._modules:
            return None
        is_package = self._modules[name][0]
        place = self.get_filename(name)
        spec = spec_from_loader(name, self, origin=place, is_package=is_package)
        assert spec is not None
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [place.rpartition("/")[0]]
        return spec

    def get_filename(self, name: str) -> str:
        """A place that is nowhere."""
        return "/packed/" + name.replace(".", "/") + ("/__init__.py" if self._modules[name][0] else ".py")

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Part of the import system: a plain module."""
        del spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Part of the import system."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        """Compiled before, unless by another interpreter."""
        _, code, source = self._modules[name]
        if self._is_compiled:
            loaded: CodeType = marshal.loads(code)
            return loaded
        return compile(source, self.get_filename(name), "exec", dont_inherit=True)

    def get_source(self, name: str) -> str:
        """For tracebacks."""
        return self._modules[name][2]


class Recorder:
    """A plugin of pytest that keeps every report."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str, str, bool]] = []
        self.message = ""

    def pytest_runtest_logreport(self, report: Any) -> None:  # noqa: ANN401
        """One phase of one test."""
        self.reports.append((report.nodeid, report.when, report.outcome, hasattr(report, "wasxfail")))
        self._keep(report)

    def pytest_collectreport(self, report: Any) -> None:  # noqa: ANN401
        """A file that could not be collected."""
        self._keep(report)

    def _keep(self, report: Any) -> None:  # noqa: ANN401
        crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
        if report.outcome == "failed" and not self.message:
            said = crash.message if crash is not None else report.longrepr
            self.message = str(said)[:MESSAGE_CHARACTERS]


def lay_out(tree: dict[str, str | None], root: str) -> None:
    """Write files; those without a text go, and with them folders that become empty."""
    made = set()
    for path in [path for path, text in tree.items() if text is None]:
        os.remove(f"{root}/{path}")  # noqa: PTH107
        folder = path.rpartition("/")[0]
        while folder and not os.listdir(f"{root}/{folder}"):  # noqa: PTH208
            os.rmdir(f"{root}/{folder}")  # noqa: PTH106
            folder = folder.rpartition("/")[0]
    for path, text in tree.items():
        if text is None:
            continue
        place = root + "/" + path
        folder = place.rpartition("/")[0]
        if folder not in made:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103 (pathlib would cost milliseconds)
            made.add(folder)
        with open(place, "w", encoding="utf-8", newline="", errors="surrogatepass") as stream:  # noqa: PTH123
            stream.write(text)


def forget_folder(folder: str) -> None:
    """Leave only the standard library to import from."""
    sys.path[:] = [path for path in sys.path if path and not path.startswith(folder)]


def main() -> None:
    """Read the job, run its test, report, leave without another word of the program."""
    leave, write, encode = os._exit, os.write, json.dumps
    source = os.fdopen(os.dup(0), "rb")
    job = marshal.load(source)
    root = os.getcwd() + "/" + ROOT  # noqa: PTH109
    forget_folder(os.getcwd())  # noqa: PTH109
    paths = [f"{root}/{path}" if path else root for path in job["paths"]]
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONDONTWRITEBYTECODE="1")
    # Interpreters that a test starts find what it finds itself.
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.pop("PYTHONSAFEPATH", None)
    sys.meta_path.insert(0, Packed(job["modules"], job["magic"]))
    channel = os.dup2(1, CHANNEL_FD, inheritable=False)
    os.dup2(2, 1)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    import pytest

    lay_out(job["tree"], root)
    sys.path += paths
    os.chdir(root)
    write(channel, b"ready\n")
    # From here on it is the answer's doing: the rest of the input is what it changes.
    with source:
        lay_out(marshal.load(source), root)
    nonce, arguments = job["nonce"], [*job["options"], "--rootdir", root, "--confcutdir", root, *job["ids"]]
    job.clear()
    recorder = Recorder()
    code = int(pytest.main(arguments, plugins=[recorder]))
    line = encode([nonce, code, recorder.reports, recorder.message]).encode() + b"\n"
    while line:
        line = line[write(channel, line) :]
    leave(code)


if __name__ == "__main__":
    main()
