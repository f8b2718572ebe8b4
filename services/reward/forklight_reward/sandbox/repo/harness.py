"""Packs pytest and what it imports into a job's input, and says with which options it runs.

pytest travels as compiled modules in memory: no jail mounts a folder of this machine's packages, every
kind of runner can take it, and no file of a tree can stand in its place.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import MAGIC_NUMBER, find_spec
from pathlib import Path

from forklight_core.errors import UnavailableError

DRIVER = Path(__file__).with_name("driver.py")
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging")
SHIM = "py"
"""A single file that pytest brings along."""
COLOURS = "pygments"
COLOUR_MODULES = (
    "*.py", "filters/__init__.py", "formatters/__init__.py", "formatters/_mapping.py",
    "formatters/terminal.py", "lexers/__init__.py", "lexers/_mapping.py", "lexers/diff.py",
    "lexers/python.py", "styles/__init__.py", "styles/_mapping.py",
)  # fmt: skip
UNUSED_PLUGINS = (
    "cacheprovider", "terminal", "faulthandler", "doctest", "junitxml", "pastebin", "setupplan", "setuponly",
    "stepwise",
)  # fmt: skip


def options() -> list[str]:
    """No configuration but the command line's; the trusted tree's conftest files are the only ones there."""
    unused = [word for name in UNUSED_PLUGINS for word in ("-p", f"no:{name}")]
    return ["-c", "/dev/null", "--import-mode=importlib", *unused]


@lru_cache(maxsize=1)
def driver_source() -> bytes:
    """The first program of ours in the jail."""
    return DRIVER.read_bytes()


@lru_cache(maxsize=1)
def packed_modules() -> dict[str, tuple[bool, bytes, str]]:
    """Name of a module to: is it a package, its code, its source."""
    modules: dict[str, tuple[bool, bytes, str]] = {}
    for name, path in module_files():
        is_package = path.name == "__init__.py"
        source = path.read_text(encoding="utf-8")
        place = "/packed/" + name.replace(".", "/") + ("/__init__.py" if is_package else ".py")
        code = compile(source, place, "exec", dont_inherit=True)
        modules[name] = (is_package, marshal.dumps(code), source)
    return modules


def magic() -> bytes:
    """Which interpreter the code is for; another one compiles the sources."""
    return MAGIC_NUMBER


def module_files() -> Iterator[tuple[str, Path]]:
    """Name and file of every module that goes along."""
    if (shim := find_spec(SHIM)) is not None and shim.origin is not None:
        yield SHIM, Path(shim.origin)
    for package in (*PACKAGES, COLOURS):
        folder = package_folder(package)
        patterns = COLOUR_MODULES if package == COLOURS else ("**/*.py",)
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def package_folder(package: str) -> Path:
    """Where a package is installed."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        return Path(place)
    raise UnavailableError(
        f"sandbox: repository tasks need pytest, and {package} is not installed here: run `make setup`, or "
        "install pytest beside forklight-reward"
    )
