"""The repository's own files, read once for all architecture tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "libs", "services", "tests", "infra")
Function = ast.FunctionDef | ast.AsyncFunctionDef
GENERATED = ROOT / "libs" / "core" / "forklight"
SERVICES = sorted(path.parent for path in ROOT.glob("services/*/pyproject.toml"))
LIBRARIES = sorted(
    path.parent for path in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("kernels/pyproject.toml")]
)
SKIPPED = {"__pycache__", "build", "dist", "node_modules"}


@cache
def python_files() -> tuple[Path, ...]:
    """Every Python file that people write."""
    found = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return tuple(path for path in found if GENERATED not in path.parents and not SKIPPED & set(path.parts))


@cache
def tree_of(path: Path) -> ast.Module:
    """A parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    """A path as people write it."""
    return path.relative_to(ROOT).as_posix()


def functions_of(path: Path) -> Iterator[Function]:
    """Every function of a file, nested ones too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, Function):
            yield node


def is_kernel(path: Path) -> bool:
    """Files of Triton code, which have walls of their own."""
    return "triton" in path.stem and "kernels" in path.parts


def is_kernel_body(function: Function) -> bool:
    """Functions that a GPU runs: their length and parameters are the hardware's."""
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)
