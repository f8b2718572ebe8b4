"""Checks of what is installed: versions against the constraints, torch, GPU, equal bits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from forklight_cli.doctor.finding import Finding, Level, judged

PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", re.MULTILINE)
NEEDED = (
    "grpcio",
    "protobuf",
    "redis",
    "pydantic",
    "torch",
    "numpy",
    "safetensors",
    "math-verify",
    "fastapi",
)


def constraints_file() -> Path | None:
    """The repository's pins, when the command runs from a checkout."""
    path = Path(__file__).resolve().parents[4] / "infra" / "python" / "constraints.txt"
    return path if path.is_file() else None


def check_packages() -> Finding:
    """Everything needed is there, in the version that is tested."""
    path = constraints_file()
    pins = dict(PIN.findall(path.read_text())) if path else {}
    missing = [name for name in NEEDED if installed(name) is None]
    if missing:
        detail = f"missing: {', '.join(missing)}"
        return Finding(name="packages", level=Level.FAIL, detail=detail, fix="make setup")
    others = list(differences(pins))
    detail = f"{len(pins)} pins, {len(others)} differ" + (f": {', '.join(others[:5])}" if others else "")
    return judged("packages", not others, detail, fix="make setup")


def differences(pins: dict[str, str]) -> Iterator[str]:
    """Installed packages whose public version is not the pinned one."""
    for name, pinned in pins.items():
        found = installed(name)
        if found is not None and found.partition("+")[0] != pinned.partition("+")[0]:
            yield f"{name} {found} (pinned {pinned})"


def installed(name: str) -> str | None:
    """Version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_torch() -> Finding:
    """Torch loads and computes."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(name="torch", level=Level.FAIL, detail=f"does not load: {error}", fix="make setup")
    good = float(torch.ones(8, 8).matmul(torch.ones(8, 8)).sum()) == 512.0
    detail = f"{torch.__version__}, {torch.get_num_threads()} threads"
    return judged("torch", good, detail, fix="make setup", otherwise=Level.FAIL)


def check_transformers() -> Finding:
    """Only run files with model.hf need it: then in a release that our code is written for."""
    from forklight_model.hf.install import INSTALL, fits

    release = installed("transformers")
    if release is None:
        return Finding(
            name="transformers", level=Level.PASS, detail=f"not installed; model.hf needs it: {INSTALL}"
        )
    return judged("transformers", fits(release), f"{release}, for model.hf", fix=INSTALL)


def check_gpu() -> Finding:
    """A GPU, when there is one; a tiny model runs without."""
    if installed("torch") is None:
        return Finding(name="gpu", level=Level.WARN, detail="unknown: no torch", fix="make setup")
    import torch

    if not torch.cuda.is_available():
        return Finding(name="gpu", level=Level.PASS, detail="none: CPU kernels are used, fit for size nano")
    names = [torch.cuda.get_device_properties(index).name for index in range(torch.cuda.device_count())]
    triton = installed("triton")
    detail = f"{len(names)} x {names[0]}, triton {triton or 'not installed'}"
    return judged("gpu", triton is not None, detail, fix="pip install triton")


def check_numerics() -> Finding:
    """Whether rollout and trainer compute the very same bits here; a GPU can, given the right Triton."""
    if installed("torch") is None:
        return Finding(name="numerics", level=Level.WARN, detail="unknown: no torch", fix="make setup")
    from dataclasses import asdict

    import torch

    from forklight.v1 import types_pb2
    from forklight_core.numerics import describe_numeric_mode
    from forklight_model.parity import check_numeric_mode

    device = "cuda" if torch.cuda.is_available() else "cpu"
    mode = types_pb2.NumericMode(**asdict(check_numeric_mode(device, torch.bfloat16)))
    fix = "runs work, within tolerances; for equal bits use the pinned torch and Triton: make setup"
    detail = f"{describe_numeric_mode(mode)} (contract {mode.contract})"
    return judged("numerics", mode.is_parity or device == "cpu", detail, fix=fix)
