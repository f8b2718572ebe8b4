"""Diffs read strictly, applied on text, kept within the patch policy. Nothing runs here."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from forklight_reward.sandbox.repo import patch as patching
from forklight_reward.sandbox.repo.diff import ForbiddenPatchError, MalformedPatchError
from forklight_reward.sandbox.repo.judge import run_repo
from forklight_reward.sandbox.repo.patch import apply_answer, find_patch
from forklight_reward.sandbox.repo.paths import protect
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Ended, Job, Runner, Tier
from services.reward.tests.repo.shop import FILES, FIX, FIXED, LIMITS, TESTS, diff_of

LINE = "@@ -0,0 +1 @@\n+x\n"


def new_file(path: str, mode: str = "100644", body: str = LINE) -> str:
    return f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n{body}"


FORBIDDEN = {
    "a link": new_file(
        "shop/link.py", "120000", "@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n"
    ),
    "a submodule": new_file("lib", "160000"),
    "a strange mode": new_file("run", "104755"),
    "an index line of a link": "diff --git a/shop/price.py b/shop/price.py\nindex 1234567..89abcde 120000\n"
    + FIX,
    "a mode that others run under": "diff --git a/x.py b/x.py\nold mode 100644\nnew mode 104755\n",
    "a file that becomes a link": "diff --git a/x.py b/x.py\nold mode 100644\nnew mode 120000\n",
    "binary": "diff --git a/x b/x\nnew file mode 100644\nGIT binary patch\nliteral 1\nA\n",
    "binary named only": "diff --git a/x b/x\nindex 1234567..1234568\nBinary files a/x and b/x differ\n",
    "a zero byte": new_file("x.py", body="@@ -0,0 +1 @@\n+\0\n"),
    "up": new_file("../x.py"),
    "up in the middle": new_file("shop/../../x.py"),
    "absolute": "--- /dev/null\n+++ /etc/cron.d/x\n" + LINE,
    "absolute after the prefix": "--- /dev/null\n+++ b//etc/x\n" + LINE,
    "quoted up": '--- /dev/null\n+++ "b/\\056\\056/x.py"\n' + LINE,
    "a backslash": "--- /dev/null\n+++ b/shop\\x.py\n" + LINE,
    "a hook": new_file(".git/hooks/post-checkout"),
    "a configuration with fsmonitor": new_file(".git/config"),
    "git in other letters": new_file("shop/.GIT/config"),
    "git with a dot behind": new_file(".git./config"),
    "submodules": new_file(".gitmodules"),
    "a path hook": new_file("evil.pth"),
    "compiled code": new_file("shop/__pycache__/price.cpython-311.pyc"),
    "a library": new_file("shop/price.so"),
    "a control character": '--- /dev/null\n+++ "b/x\\ny.py"\n' + LINE,
    "renamed out": "diff --git a/shop/price.py b/../p.py\nsimilarity index 100%\n"
    "rename from shop/price.py\nrename to ../p.py\n",
    "too long a path": new_file("a" * 300 + ".py"),
    "too many files": "".join(new_file(f"shop/m{number}.py") for number in range(65)),
    "too large": "--- /dev/null\n+++ b/x.py\n@@ -0,0 +1 @@\n+" + "x" * 2**19 + "\n",
    "a file where hidden tests have a folder": new_file("tests/test_price.py/x.py"),
    "a file in the place of a folder": new_file("shop"),
}
MALFORMED = {
    "nothing": "",
    "prose": "I would change total().",
    "code without a diff": "```python\n" + FIXED + "```",
    "no names": "@@ -1 +1 @@\n-a\n+b\n",
    "too few lines": FIX.replace("@@ -4,7 +4,7 @@", "@@ -4,9 +4,9 @@"),
    "too many lines": FIX.replace("@@ -4,7 +4,7 @@", "@@ -4,5 +4,5 @@"),
    "a broken header": FIX.replace("@@ -4,7 +4,7 @@", "@@ -4,7 @@"),
    "nothing changes": '--- a/shop/price.py\n+++ b/shop/price.py\n@@ -1 +1 @@\n """Prices."""\n',
    "two names": FIX.replace("+++ b/shop/price.py", "+++ b/shop/prices.py"),
    "a file that is not there": FIX.replace("shop/price.py", "shop/cost.py"),
    "a new file that is there": "--- /dev/null\n+++ b/shop/price.py\n" + LINE,
    "other context": FIX.replace("result = 0", "result = 1"),
    "context with other spaces": FIX.replace("     result = 0", "      result = 0"),
    "deleted only in part": '--- a/shop/price.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-"""Prices."""\n',
    "applied twice": FIX + FIX,
    "a header alone": "diff --git a/shop/price.py b/shop/price.py\n",
    "insertion beyond the end": "--- a/shop/price.py\n+++ b/shop/price.py\n@@ -900,0 +901 @@\n+x\n",
}


def applied(answer: str) -> dict[str, str]:
    return dict(apply_answer(answer, FILES, TESTS.protection).tree)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_patch_that_asks_for_more_is_forbidden(name: str) -> None:
    with pytest.raises(ForbiddenPatchError):
        applied(FORBIDDEN[name])
    with pytest.raises(ForbiddenPatchError):
        applied(FIX + FORBIDDEN[name])  # beside an honest change too


@pytest.mark.parametrize("name", MALFORMED)
def test_a_patch_that_does_not_fit_is_malformed(name: str) -> None:
    assert FIX.count("@@ -4,7 +4,7 @@") == 1
    with pytest.raises(MalformedPatchError) as caught:
        applied(MALFORMED[name])
    assert len(str(caught.value)) > 10


class NoRunner:
    """A runner that nobody may ask."""

    version, tier = "none", Tier.JAIL

    def run(self, job: Job) -> Ended:
        raise AssertionError("a patch that does not apply must not run")

    def close(self) -> None:
        """Nothing."""


def test_classes_of_patches_that_never_run() -> None:
    runner: Runner = NoRunner()
    for answer, verdict in (
        (FORBIDDEN["a link"], Class.VIOLATION),
        (MALFORMED["prose"], Class.COMPILE_ERROR),
        ("  \n", Class.COMPILE_ERROR),
    ):
        found = run_repo(TESTS, answer, runner, LIMITS, float("inf"))
        assert (found.verdict, found.score, found.num_tests) == (verdict, 0.0, 3)
    found = run_repo(TESTS, MALFORMED["other context"], runner, LIMITS, float("inf"))
    assert "hunk 1 of shop/price.py does not apply" in found.evidence


@pytest.mark.parametrize(
    "answer",
    [
        FIX,
        f"I think so.\n\n```diff\n{FIX}```\nDone.",
        f"```diff\n--- a/x\n+++ b/x\n```\nNo, better:\n\n```patch\n{FIX}```\n",
        f"```\n{FIX}```",
        FIX.replace("a/shop", "shop").replace("b/shop", "shop"),
        FIX.replace("\n \n", "\n\n"),
        f"From 1234 Mon Sep 17\nSubject: sum\n---\n shop/price.py | 2 +-\n\n{FIX}-- \n2.47\n",
        "diff --git a/shop/price.py b/shop/price.py\nindex 1234567..89abcde 100644\n" + FIX,
        FIX.replace("price.py\n", "price.py\t2024-01-01 10:00:00\n"),
        FIX.replace("--- a/", "--- old/").replace("+++ b/", "+++ new/"),
        FIX.replace("--- a/shop/price.py", "--- shop/price.py.orig").replace("+++ b/", "+++ "),
        f"diff -ru a/shop/price.py b/shop/price.py\n{FIX}Only in b: x\ndiff -ru a/y b/y\n",
        f"Index: shop/price.py\n==========================\n{FIX}\nIndex: shop/notes.md\n=========\n",
        FIX.replace("@@ -4,7 +4,7 @@", "@@ -1,7 +1,7 @@"),
        FIX.replace("@@ -4,7 +4,7 @@", "@@ -900,7 +900,7 @@ def total"),
    ],
)
def test_forms_of_the_same_patch(answer: str) -> None:
    assert applied(answer) == FILES | {"shop/price.py": FIXED}


def test_a_fence_inside_a_diff_does_not_end_it() -> None:
    wanted = "# Notes\n\n```python\ntotal([2])\n```\n"
    answer = "```diff\n" + diff_of({"shop/notes.md": wanted}) + "```\n"
    assert applied(answer)["shop/notes.md"] == wanted
    assert find_patch(diff_of({"shop/notes.md": wanted})) == diff_of({"shop/notes.md": wanted})


def test_renames_copies_and_deletions_are_text() -> None:
    rename = (
        "diff --git a/shop/price.py b/shop/cost.py\nsimilarity index 90%\nrename from shop/price.py\n"
        "rename to shop/cost.py\n" + FIX.replace("+++ b/shop/price.py", "+++ b/shop/cost.py")
    )
    tree = applied(rename)
    assert tree["shop/cost.py"] == FIXED
    assert "shop/price.py" not in tree
    assert "shop/notes.md" not in applied(diff_of({"shop/notes.md": None}))
    assert applied(new_file("shop/__main__.py", "100755"))["shop/__main__.py"] == "x\n"
    executable = "diff --git a/shop/price.py b/shop/price.py\nold mode 100644\nnew mode 100755\n"
    assert applied(executable + FIX)["shop/price.py"] == FIXED
    assert applied(executable) == applied(executable + FIX) | {"shop/price.py": FILES["shop/price.py"]}


def test_files_that_come_and_go_by_their_time_are_understood() -> None:
    epoch = "\t1970-01-01 00:00:00.000000000 +0000\n"
    come = "--- shop/x.py" + epoch + "+++ shop/x.py\t2024-01-01 10:00:00\n" + LINE
    assert applied(come)["shop/x.py"] == "x\n"
    assert "shop/notes.md" not in applied(
        diff_of({"shop/notes.md": None}).replace("+++ /dev/null\n", "+++ b/x" + epoch)
    )


def test_an_end_without_newline_is_told_in_any_language() -> None:
    bare = new_file("shop/x.py", body=LINE + "\\ Kein Zeilenumbruch am Dateiende.\n")
    assert applied(bare)["shop/x.py"] == "x"


def test_copies_cannot_make_a_tree_of_any_size() -> None:
    files = {"big": "x\n" * 100_000}
    head = "diff --git a/big b/copy{0}\nsimilarity index 100%\ncopy from big\ncopy to copy{0}\n"
    copies = [head.format(number) for number in range(9)]
    assert len(apply_answer("".join(copies[:2]), files, TESTS.protection).tree) == 3
    with pytest.raises(ForbiddenPatchError, match="gain more"):
        apply_answer("".join(copies), files, TESTS.protection)


def test_what_is_protected_stays_and_is_told() -> None:
    changed = {
        "tests/test_price.py": None,
        "tests/conftest.py": "import os\n",
        "sub/Setup.cfg": "[x]\n",
        "tests/test_new.py": "x = 1\n",
        "shop/price.py": FIXED,
    }
    found = apply_answer(diff_of(changed), FILES, TESTS.protection)
    assert found.tree == FILES | {"shop/price.py": FIXED, "tests/test_new.py": "x = 1\n"}
    assert found.ignored == ("tests/test_price.py", "tests/conftest.py", "sub/Setup.cfg")


def test_library_code_in_a_folder_named_test_may_change() -> None:
    protection = protect(["lib/test/client.py", "tests/data.txt"], [], ["tests/test_a.py"])
    assert not protection.holds("lib/test/client.py")
    assert protection.holds("tests/data.txt")
    assert not protection.holds("tests/more.txt")


def test_looking_for_hunks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "MAX_SEARCH", 1000)
    text = "a\n" * 3000
    hunk = "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"
    with pytest.raises(ForbiddenPatchError, match="too much work"):
        apply_answer(hunk, {"x": text}, TESTS.protection)


def test_random_edits_agree_with_git(tmp_path: Path) -> None:
    chance = random.Random(5)
    for number in range(25):
        old = [chance.choice("abcd") * chance.randrange(3) for _ in range(chance.randrange(30))]
        new = [line for line in old if chance.random() > 0.1]
        new.insert(chance.randrange(len(new) + 1), "z")
        texts = ["\n".join(lines) + chance.choice(["", "\n"]) for lines in (old, new)]
        for side, text in zip("ab", texts, strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / "f.py").write_text(text)
        context = chance.choice([0, 1, 3])
        said = subprocess.run(
            ["git", "diff", "--no-index", "--no-prefix", f"-U{context}", "a/f.py", "b/f.py"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        tree = apply_answer(said, {"f.py": texts[0]}, TESTS.protection).tree if said else {"f.py": texts[0]}
        assert tree == {"f.py": texts[1]}, number
