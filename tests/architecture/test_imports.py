"""Import floors, rooms without torch, and who may catch everything."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, name_of, python_files, tree_of

TORCH_FREE = (
    "forklight_core",
    "forklight_data",
    "forklight_buffer",
    "forklight_reward",
    "forklight_console",
    "forklight_cli",
    "forklight_trainer.steering",  # replayed on machines without a GPU
)
HEAVY = ("torch", "triton", "deepspeed", "vllm", "transformers")

# Everything a worker can throw ends at its two doors; core's are the doors all services share.
DOORS = ("servicer.py", "worker.py")
ALLOWED = {
    "kernels/bench/harness.py": "a peer that fails is a row that says so, and costs no other row",
    "libs/model/bench_gpu.py": "a part that fails is a line that says so, and costs no other part",
    "libs/core/forklight_core/rpc/server.py": "the door all services share",
    "libs/core/forklight_core/lifecycle.py": "how every service process ends",
    "services/reward/forklight_reward/sandbox/inside.py": "calls a stranger's program inside the jail",
    "services/reward/forklight_reward/verifier/math_worker.py": "sympy raises anything on odd input",
    "services/reward/forklight_reward/verifier/symbolic.py": "the LaTeX parser raises anything on odd input",
}
BROAD = {"Exception", "BaseException"}
PRINTING_SCRIPTS = {"libs/model/bench_gpu.py"}  # besides the folders named bench

IMPORT_ALL = """
import importlib, pkgutil, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ImportError(f"{{name}} is not allowed here")

sys.meta_path.insert(0, Wall())
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package!r} + "."):
    if not module.name.endswith({programs!r}):
        importlib.import_module(module.name)
print("all of it")
"""
PROGRAMS = ("__main__", "sandbox.inside", "sandbox.tiers.guest")
"""Modules that begin to work, and may end the process, when they are imported."""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )


def test_import_floors_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", TORCH_FREE)
def test_package_imports_when_torch_is_blocked(package: str) -> None:
    done = run_python("-c", IMPORT_ALL.format(heavy=HEAVY, package=package, programs=PROGRAMS))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all of it\n"), f"the import of {package} ended early"


def test_the_wall_blocks_torch_when_it_is_asked_for() -> None:
    done = run_python("-c", IMPORT_ALL.format(heavy=HEAVY, package="forklight_model", programs=PROGRAMS))
    assert "torch is not allowed here" in done.stderr


def test_everything_is_caught_only_at_the_doors() -> None:
    elsewhere = []
    for path in python_files():
        name = name_of(path)
        if path.name in DOORS or name in ALLOWED or "tests" in path.parts:
            continue
        elsewhere += [
            f"{name}:{node.lineno}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ExceptHandler) and is_broad(node) and not raises_again(node)
        ]
    assert not elsewhere, "\n".join(elsewhere)


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Catches everything."""
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(each, ast.Name) and each.id in BROAD for each in caught)


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Only cleans up on the way out."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_no_library_prints() -> None:
    printing = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files()
        if "tests" not in path.parts and path.parts[-2] != "bench" and name_of(path) not in PRINTING_SCRIPTS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing, "\n".join(printing)
