"""What builds images: the list of packages, the commands, what reaches the engine, the kernels' launcher."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.docker.build import EXIT_NO_ENGINE, IMAGES, arguments_of, main
from infra.docker.third_party import BadRoomsError, third_party
from tests.images.dockerfiles import ROOT, all_dockerfiles

K8S = ROOT / "infra" / "k8s"
LAUNCHER_TEST = """
import os, sys
from pathlib import Path
import triton
from triton.runtime.build import compile_module_from_src
sys.setdlopenflags(os.RTLD_LAZY)  # the driver's library is an empty one here
folder = Path(triton.__file__).parent / "backends" / "nvidia"
module = compile_module_from_src((folder / "driver.c").read_text(), "cuda_utils", [str(folder / "lib")],
                                 [str(folder / "include")], ["libcuda.so.1"])
assert callable(module.load_binary) and callable(module.launch)
try:
    compile_module_from_src("int forklight;", "other")
except Exception as error:
    print(type(error).__name__)
"""

KEPT_BACK = (
    ".git/config",
    ".venv/bin/python",
    "runs/run/ledger.sqlite",
    "secret.pem",
    "services/buffer/tests/conftest.py",
    "libs/core/forklight_core/__pycache__/ids.pyc",
    "infra/docker/build.py",
    "README.md",
)


def write_room(root: Path, name: str, text: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "pyproject.toml").write_text(f'[project]\nname = "forklight-{name}"\n{text}')


def test_packages_of_rooms_are_all_but_the_rooms(tmp_path: Path) -> None:
    write_room(
        tmp_path, "core", 'dependencies = ["redis>=7"]\n[project.optional-dependencies]\ns3 = ["obstore"]\n'
    )
    write_room(tmp_path, "buffer", 'dependencies = ["forklight-core[s3]", "numpy", "redis>=7"]\n')
    assert third_party(["core[s3]", "buffer"], tmp_path) == ["numpy", "obstore", "redis>=7"]


@pytest.mark.parametrize(
    ("rooms", "said"),
    [
        (["buffer"], "needs forklight-core, which is not among the rooms"),
        (["core", "buffer"], "needs forklight-core[s3]: add the extra s3"),
        (["core[s4]", "buffer"], "core has no extra 's4'; it has: s3"),
        (["nowhere"], "'nowhere' is no room"),
        (["core[s3"], "'core[s3' is no room"),
    ],
)
def test_rooms_that_do_not_fit_are_refused(tmp_path: Path, rooms: list[str], said: str) -> None:
    write_room(tmp_path, "core", 'dependencies = []\n[project.optional-dependencies]\ns3 = ["obstore"]\n')
    write_room(tmp_path, "buffer", 'dependencies = ["forklight-core[s3]"]\n')
    with pytest.raises(BadRoomsError) as caught:
        third_party(rooms, tmp_path)
    assert said in str(caught.value)


def test_a_dry_run_prints_commands_that_pass_on_what_each_file_declares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BASE_IMAGE", "local/base:ca")
    monkeypatch.setenv("TORCH_INDEX", "http://127.0.0.1:1/")
    assert main(["--dry-run", "--tag", "1.2", "--prefix", "registry.example/"]) == 0
    lines = dict(zip(IMAGES, capsys.readouterr().out.splitlines(), strict=True))
    for image, line in lines.items():
        assert "--build-arg BASE_IMAGE=local/base:ca" in line
        assert f"--tag registry.example/forklight-{image}:1.2 --file {IMAGES[image]} ." in line
        assert ("TORCH_INDEX" in line) == (image in ("rollout", "trainer"))
        assert "--build-arg REVISION=" in line


def test_images_have_the_tag_that_the_manifests_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run"]) == 0
    named = set(
        re.findall(r"image: (forklight-[a-z]+:[^\s}]+)", "".join(map(Path.read_text, K8S.rglob("*.yaml"))))
    )
    built = set(re.findall(r"--tag (\S+)", capsys.readouterr().out))
    assert named == built


def test_no_engine_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon at unix:///none' >&2\nexit 1\n")
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == EXIT_NO_ENGINE
    said = capsys.readouterr().err
    assert "Cannot connect to the Docker daemon" in said
    assert "DOCKER_HOST=" in said
    engine.unlink()
    assert main([]) == EXIT_NO_ENGINE
    assert "none of docker, podman is on PATH" in capsys.readouterr().err


def test_a_failed_image_is_named_and_the_rest_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "engine"
    engine.write_text(
        '#!/bin/sh\ncase "$*" in\nbuild*reward* | image*reward*) exit 1 ;;\nimage*) echo 317000000 ;;\nesac\n'
    )
    engine.chmod(0o755)
    assert main(["--engine", str(engine), "--only", "reward", "--only", "buffer"]) == 1
    said = capfd.readouterr()
    assert "317 MB" in said.out
    assert "not built: reward" in said.err


def is_sent(path: str, patterns: list[str]) -> bool:
    """The rule of .dockerignore: the last pattern that fits the path or a folder above it decides."""
    sent = True
    parts = path.split("/")
    heads = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if bare.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, bare[3:]) for part in parts)
        else:
            fits = any(
                head.count("/") == bare.count("/") and fnmatch.fnmatchcase(head, bare) for head in heads
            )
        if fits:
            sent = pattern.startswith("!")
    return sent


def test_only_what_is_copied_reaches_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*", "everything is left out until it is named"
    sources = {source for each in all_dockerfiles() for source in each.copies()}
    for source in sources:
        assert is_sent(source, patterns), f"{source} is copied but .dockerignore keeps it back"
    for kept in KEPT_BACK:
        assert not is_sent(kept, patterns), f"{kept} is sent to the engine"
    named = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    unused = {name for name in named if not any(fnmatch.fnmatchcase(source, name) for source in sources)}
    assert not unused, f"sent, and copied by nobody: {', '.join(sorted(unused))}"


def test_build_arguments_that_the_environment_gives_are_declared() -> None:
    for path in IMAGES.values():
        declared = arguments_of((ROOT / path).read_text(encoding="utf-8"))
        assert {"BASE_IMAGE", "ROOMS", "ROOMS_OWNER", "VERSION", "REVISION"} <= declared


def test_kernels_start_without_a_compiler(tmp_path: Path) -> None:
    """The launcher that a build stage compiles is what Triton gets, for its own source and no other."""
    pytest.importorskip("triton")
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: apt-get install gcc libc6-dev")
    binaries, driver = tmp_path / "bin", tmp_path / "driver"
    binaries.mkdir()
    driver.mkdir()
    (binaries / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (binaries / "python").chmod(0o755)
    environment = {**os.environ, "ENVIRONMENT": str(tmp_path)}
    subprocess.run(["sh", "infra/docker/launcher.sh"], cwd=ROOT, env=environment, check=True, timeout=120)
    (driver / "empty.c").write_text("void nothing(void) {}\n")
    library = driver / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, driver / "empty.c"], check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER_TEST], capture_output=True, text=True, timeout=120,
        env={"PATH": f"{binaries}:/usr/bin:/bin", "CC": "forklight-cc", "LD_LIBRARY_PATH": str(driver),
             "TRITON_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "CalledProcessError"
    assert "this image has no compiler" in done.stderr


def test_the_seccomp_profile_lets_jails_be_made_and_keeps_the_kernel_shut() -> None:
    profile = json.loads((ROOT / "infra/docker/seccomp/sandbox.json").read_text(encoding="utf-8"))
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    (rule,) = profile["syscalls"]
    assert rule["action"] == "SCMP_ACT_ERRNO"
    denied = set(rule["names"])
    assert not denied & {
        "clone",
        "clone3",
        "unshare",
        "mount",
        "umount2",
        "pivot_root",
        "sethostname",
        "prctl",
        "seccomp",
    }
    assert denied >= {
        "bpf",
        "init_module",
        "finit_module",
        "kexec_load",
        "keyctl",
        "add_key",
        "ptrace",
        "reboot",
    }
    assert denied >= {
        "clock_settime",
        "perf_event_open",
        "io_uring_setup",
        "userfaultfd",
        "open_by_handle_at",
    }
