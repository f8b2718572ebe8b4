"""Records like SWE-bench's become tasks, or are refused with a reason; trees come from this machine only."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.repo import trees
from forklight_reward.sandbox.repo.importing import import_file
from forklight_reward.sandbox.repo.task import load_task
from forklight_reward.sandbox.repo.trees import read_tree
from services.reward.tests.repo.shop import F2P, FILES, FIX, HIDDEN, P2P, TESTS, diff_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "registry.example/shop@sha256:" + "a" * 64
RECORD: dict[str, object] = {
    "repo": "acme/shop",
    "instance_id": "acme__shop-7",
    "base_commit": COMMIT,
    "patch": FIX,
    "test_patch": diff_of(HIDDEN),
    "problem_statement": "total() forgets a price",
    "FAIL_TO_PASS": json.dumps(F2P),
    "PASS_TO_PASS": P2P,
    "image": DIGEST,
    "version": "1.0",
}


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with the tree of the record, and what does not belong into a task."""
    tree = tmp_path / "trees" / "acme__shop-7"
    for path, text in FILES.items():
        place = tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (tree / ".git" / "objects").mkdir(parents=True)
    (tree / ".git" / "HEAD").write_text("ref: refs/heads/fixed\n")
    (tree / "logo.png").write_bytes(b"\x89PNG\0")
    (tree / "secret").symlink_to("/etc/passwd")
    return tmp_path / "trees"


def write(tmp_path: Path, *records: object) -> Path:
    place = tmp_path / "records.jsonl"
    place.write_text("".join(json.dumps(record) + "\n" for record in records))
    return place


def test_a_whole_record_becomes_a_task(tmp_path: Path, shelf: Path) -> None:
    summary = import_file(write(tmp_path, RECORD), tmp_path / "out", shelf)
    assert (summary.num_written, summary.refused) == (1, [])
    task = load_task(tmp_path / "out" / "acme__shop-7.json")
    assert task.tests == TESTS
    assert task.fix == FIX
    assert task.origin == {"repo": "acme/shop", "commit": COMMIT, "image": DIGEST, "num_left_out": "2"}
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch": ""}, "has no patch"),
        ({"base_commit": None}, "has no base_commit"),
        ({"FAIL_TO_PASS": "[]"}, "f2p is empty"),
        ({"FAIL_TO_PASS": "test_total"}, "not a list of ids"),
        ({"PASS_TO_PASS": None}, "not a list of ids"),
        ({"FAIL_TO_PASS": ["test_total (tests.Test)"]}, "no pytest node id"),
        ({"FAIL_TO_PASS": ["tests/test_none.py::test_x"]}, "neither files nor hidden"),
        ({"image": "acme/shop:latest"}, "has no digest"),
        ({"instance_id": "acme__shop-8"}, "there is no tree acme__shop-8"),
        ({"archive": "gone.tar.gz"}, "there is no tree gone.tar.gz"),
        ({"instance_id": "../x", "tree": "acme__shop-7"}, "id: String should match"),
        ({"test_patch": "prose"}, "test_patch: there is no diff"),
        ({"patch": FIX.replace("result = 0", "result = 3")}, "patch: hunk 1"),
    ],
)
def test_what_is_missing_is_told_for_each_record(
    change: dict[str, object], said: str, tmp_path: Path, shelf: Path
) -> None:
    summary = import_file(write(tmp_path, RECORD | change, RECORD), tmp_path / "out", shelf)
    assert summary.num_written == 1
    assert [said in refusal.reason for refusal in summary.refused] == [True], summary.refused


def test_lines_that_are_no_records(tmp_path: Path, shelf: Path) -> None:
    place = write(tmp_path, RECORD, [], RECORD)
    place.write_text(place.read_text() + "{\n")
    reasons = {found.record: found.reason for found in import_file(place, tmp_path / "out", shelf).refused}
    assert reasons["line 2"] == "not a JSON object"
    assert reasons["acme__shop-7"].startswith("an earlier record")
    assert reasons["line 4"].startswith("not JSON")
    with pytest.raises(InvalidInputError, match=r"none\.jsonl"):
        import_file(tmp_path / "none.jsonl", tmp_path / "out", shelf)


def test_a_test_that_the_test_patch_removes_is_not_in_the_tree(tmp_path: Path, shelf: Path) -> None:
    hidden = {"tests/test_price.py": None, "tests/test_all.py": HIDDEN["tests/test_price.py"]}
    change = {
        "test_patch": diff_of(hidden),
        "FAIL_TO_PASS": ["tests/test_all.py::test_total"],
        "PASS_TO_PASS": [],
    }
    assert import_file(write(tmp_path, RECORD | change), tmp_path / "out", shelf).num_written == 1
    tests = load_task(tmp_path / "out" / "acme__shop-7.json").tests
    assert "tests/test_price.py" not in tests.files
    assert list(tests.hidden) == ["tests/test_all.py"]


def test_archives_read_as_folders_do(tmp_path: Path) -> None:
    zipped, tarred = tmp_path / "a.zip", tmp_path / "a.tar.gz"
    with zipfile.ZipFile(zipped, "w") as archive:
        for path, text in FILES.items():
            archive.writestr(f"shop-1/{path}", text)
    with tarfile.open(tarred, "w:gz") as tar:
        for path, text in {**FILES, ".git/HEAD": "x"}.items():
            info = tarfile.TarInfo(f"./shop-1/{path}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("./shop-1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        escape = tarfile.TarInfo("./shop-1/../../x.py")
        tar.addfile(escape)
    assert read_tree(zipped).files == FILES
    found = read_tree(tarred)
    assert (found.files, found.num_left_out) == (FILES, 2)


def test_an_archive_of_another_commit_is_refused(tmp_path: Path, shelf: Path) -> None:
    tree = tmp_path / "work"
    tree.mkdir()
    (tree / "a.py").write_text("x = 1\n")
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    subprocess.run([*git, "archive", "-o", str(shelf / "x.tar.gz"), "HEAD"], check=True)
    summary = import_file(write(tmp_path, RECORD | {"archive": "x.tar.gz"}), tmp_path / "out", shelf)
    assert "is of commit" in summary.refused[0].reason


def test_trees_that_are_too_large_or_broken_are_refused(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_tree(tmp_path / "x.tar.gz")
    monkeypatch.setattr(trees, "MAX_FILES", 3)
    with pytest.raises(InvalidInputError, match="more than 3 files"):
        read_tree(shelf / "acme__shop-7")
