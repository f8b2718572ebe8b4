#!/usr/bin/env python3
"""Builds the images of all services with the local engine and prints their sizes. Standard library only.

`make images IMAGES_OPTIONS="--only buffer --dry-run"`; BASE_IMAGE and TORCH_INDEX come from the environment.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES: Mapping[str, str] = {
    "buffer": "services/buffer/Dockerfile",
    "reward": "services/reward/Dockerfile",
    "sandbox": "services/reward/Dockerfile.sandbox",
    "console": "services/console/Dockerfile",
    "rollout": "services/rollout/Dockerfile",
    "trainer": "services/trainer/Dockerfile",
}
ENGINES = ("docker", "podman")
PASSED_ON = ("BASE_IMAGE", "TORCH_INDEX")
"""Build arguments that the environment may give; a Dockerfile gets those it declares."""
EXIT_FAILED, EXIT_NO_ENGINE = 1, 3
NO_ENGINE = """no container engine answers: {reason}
  - start one (systemctl start docker), or install one (apt-get install docker.io)
  - another socket: DOCKER_HOST=unix:///path/to/docker.sock make images
  - another program: make images ENGINE=podman
  - only look at what would run: make images IMAGES_OPTIONS=--dry-run
"""

VERSION = "0.1.0"


class NoEngineError(Exception):
    """Nothing here can build an image."""


@dataclass(frozen=True)
class Plan:
    """One image."""

    name: str
    tag: str
    command: tuple[str, ...]


def arguments_of(dockerfile: str) -> set[str]:
    """Names of the build arguments a Dockerfile declares."""
    return set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))


def plan_image(name: str, given: argparse.Namespace, environ: Mapping[str, str], revision: str) -> Plan:
    """The command that builds an image."""
    declared = arguments_of((ROOT / IMAGES[name]).read_text(encoding="utf-8"))
    values = {key: environ[key] for key in PASSED_ON if environ.get(key)}
    values |= {"VERSION": given.version, "REVISION": revision}
    tag = f"{given.prefix}forklight-{name}:{given.tag}"
    options = [
        part for key, value in values.items() if key in declared for part in ("--build-arg", f"{key}={value}")
    ]
    if given.network:
        options += ["--network", given.network]
    return Plan(name, tag, (given.engine, "build", *options, "--tag", tag, "--file", IMAGES[name], "."))


def find_engine(wanted: str) -> str:
    """The program of an engine that answers."""
    for name in [wanted] if wanted else ENGINES:
        if found := shutil.which(name):
            done = subprocess.run([found, "info"], capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == 0 and "Cannot connect" not in done.stderr:
                return found
            reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            raise NoEngineError(f"{found} info: {reason}")
    raise NoEngineError(f"none of {', '.join([wanted] if wanted else ENGINES)} is on PATH")


def revision_of(root: Path) -> str:
    """The commit of the tree, marked when files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def size_of(engine: str, tag: str) -> str:
    """Size of all layers, in MB."""
    done = subprocess.run(
        [engine, "image", "inspect", "--format", "{{.Size}}", tag],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{int(done.stdout) / 1e6:,.0f} MB" if done.returncode == 0 else "not built"


def build(plans: Sequence[Plan]) -> list[str]:
    """Build one after the other; the names of those that failed."""
    failed = []
    for plan in plans:
        sys.stdout.write(f"== {plan.tag}\n{shlex.join(plan.command)}\n")
        sys.stdout.flush()
        if subprocess.run(plan.command, cwd=ROOT, check=False).returncode:
            failed.append(plan.name)
    return failed


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What to build, and with what."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=IMAGES, help="one image; may be given again")
    parser.add_argument("--tag", default=VERSION, help="default %(default)s, which infra/k8s names")
    parser.add_argument(
        "--prefix", default="", help="registry before the names, such as registry.example/team/"
    )
    parser.add_argument("--version", default=VERSION, help="of the label, default %(default)s")
    parser.add_argument("--network", default="", help="network of the build, such as host")
    parser.add_argument(
        "--engine", default=os.environ.get("ENGINE", ""), help="docker or podman; default: the first found"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--sizes", action="store_true", help="only print the sizes of what was built before")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all built, 1 an image failed, 3 there is no engine."""
    given = read_arguments(arguments)
    try:
        given.engine = (given.engine or ENGINES[0]) if given.dry_run else find_engine(given.engine)
    except NoEngineError as error:
        sys.stderr.write(NO_ENGINE.format(reason=error))
        return EXIT_NO_ENGINE
    revision = revision_of(ROOT)
    plans = [plan_image(name, given, os.environ, revision) for name in given.only or IMAGES]
    if given.dry_run:
        sys.stdout.write("".join(f"{shlex.join(plan.command)}\n" for plan in plans))
        return 0
    failed = [] if given.sizes else build(plans)
    sys.stdout.write("".join(f"{plan.tag:40} {size_of(given.engine, plan.tag):>10}\n" for plan in plans))
    if failed:
        sys.stderr.write(f"not built: {', '.join(failed)}; the engine's messages are above\n")
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
