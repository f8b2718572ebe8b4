"""Specs of mode repo, the form on the command line, what the front sends, and how sentinels are made."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from forklight_core.errors import InvalidInputError
from forklight_reward.front.program import extract_source
from forklight_reward.sandbox.repo.sentinel import make_sentinel
from forklight_reward.sandbox.repo.spec import split_id
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.spec import parse_spec
from forklight_reward.sandbox.spec_files import run_spec_files
from services.reward.tests.repo.shop import F2P, FILES, FIX, HIDDEN, P2P, TESTS

BODY: dict[str, object] = {"files": FILES, "hidden": HIDDEN, "f2p": F2P, "p2p": P2P}
LONG = {"wall_s": 20}


def text_of(tests: Mapping[str, object], **others: object) -> str:
    return json.dumps({"mode": "repo", "language": "python", "tests": tests, "limits": LONG, **others})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"f2p": []}, "f2p is empty"),
        ({"f2p": ["tests/test_price.py"]}, "no pytest node id"),
        ({"f2p": ["test_x (shop.Test)"]}, "no pytest node id"),
        ({"f2p": ["tests/test_no.py::test_x"]}, "neither files nor hidden"),
        ({"f2p": [*F2P, *F2P]}, "twice"),
        ({"f2p": ["../tests/test_price.py::test_x"]}, "no pytest node id"),
        ({"files": {**FILES, "../x": ""}}, "'..'"),
        ({"files": {**FILES, ".git/config": ""}}, "version control"),
        ({"files": {**FILES, "shop": ""}}, "a file and a folder"),
        ({"hidden": {**HIDDEN, "/etc/x": ""}}, "absolute"),
        ({"gold": "x"}, "Extra inputs"),
        ({"files": {"a.py": 3}}, "valid string"),
    ],
)
def test_specs_that_no_run_could_judge_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_spec(text_of(BODY | change))
    assert said in str(caught.value)
    assert "FunctionTests" not in str(caught.value)


def test_tests_must_be_of_the_mode() -> None:
    with pytest.raises(InvalidInputError, match="mode repo must be"):
        parse_spec(json.dumps({"mode": "repo", "tests": [{"stdout": "7"}]}))
    with pytest.raises(InvalidInputError, match="mode stdio must be"):
        parse_spec(json.dumps({"mode": "stdio", "source": "x", "tests": BODY}))


def test_the_command_line_and_the_service_judge_alike(tmp_path: Path, runner: Runner) -> None:
    place = tmp_path / "spec.json"
    place.write_text(text_of(BODY | {"patch": FIX, "p2p": []}, source=""))
    (line,) = run_spec_files([str(place)])
    found = json.loads(line.text)
    assert (found["class"], found["score"], found["mask"]) == ("AC", 1, False)
    assert (found["tests"]["passed"], found["usage"]["cpu_ms"] > 0) == (1, True)
    served = execute(parse_spec(text_of(BODY), f"So:\n```diff\n{FIX.replace('= 0', '= 1')}```"), runner)
    assert (served.verdict, served.score) == ("CE", 0.0)


def test_the_front_sends_the_whole_answer_of_a_repository_task() -> None:
    spec = text_of(BODY)
    answer = f"<think>```diff\nno\n```</think>\nDone:\n```diff\n{FIX}```\n"
    assert extract_source(answer, spec) == f"Done:\n```diff\n{FIX}```"
    assert extract_source("<think>" + answer.replace("</think>", ""), spec) is None
    assert extract_source("```python\nprint(1)\n```", '{"mode": "stdio"}') == "print(1)\n"
    assert extract_source("no fence", "not json") is None


@pytest.mark.parametrize(
    ("test_id", "parts"),
    [
        ("a/test_b.py::test_c", ("a/test_b.py", ("test_c",), "")),
        ("test_b.py::C::D::test_c[1-[x]::y.py]", ("test_b.py", ("C", "D", "test_c"), "[1-[x]::y.py]")),
    ],
)
def test_ids(test_id: str, parts: tuple[object, ...]) -> None:
    assert split_id(test_id) == parts


FILE = '''"""Tests."""
from __future__ import annotations
import pytest, unittest
from unittest.mock import ANY


@pytest.mark.parametrize("a", [1, 2])
def test_all(a):
    def inner(value):
        assert value
        return value
    if a > 1:
        return
    with pytest.raises(ZeroDivisionError):
        1 / 0
    for value in (a, inner(a)):
        assert value == 1 and a in [a]
        assert value == 1
        assert "x" in "xyz"
        assert 0 < a
        assert a != 5


def test_numbers():
    infinite, unknown = float("inf"), float("nan")
    assert infinite == float("inf") and 1e30 == 1e30
    assert infinite == float("inf")
    assert 1e30 == 1e30
    assert 1e30
    assert unknown != unknown
    assert unknown == pytest.approx(unknown, nan_ok=True)
    assert unknown == ANY
    assert [1, unknown] == [1, ANY]


class TestOther(unittest.TestCase):
    def test_claims(self):
        self.assertAlmostEqual(1e30, 1e30)
        self.assertEqual(1, ANY)
        self.assertNotEqual(float("nan"), 1)
        self.assertEqual([1], [1])
        self.assertAlmostEqual(0.1 + 0.2, 0.3)
        self.assertTrue(1)
        self.assertFalse([])
        self.assertIn(1, {1: 2})
        self.assertLess(1, 2)
        with self.assertRaises(KeyError):
            {}[1]
'''


@pytest.mark.parametrize(
    "test_id", ["test_x.py::test_all[1]", "test_x.py::test_numbers", "test_x.py::TestOther::test_claims"]
)
def test_a_sentinel_of_an_honest_test_fails(test_id: str) -> None:
    text = make_sentinel(FILE, test_id)
    space: dict[str, object] = {"__name__": "test_x"}
    exec(compile(text, "test_x.py", "exec"), space)
    name = split_id(test_id)[1]
    with pytest.raises(AssertionError):
        call(space, name)
    untouched = {
        node.name for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    assert {"test_all", "TestOther"} <= untouched
    assert make_sentinel(FILE, test_id) != text, "names and numbers must be new each time"


def call(space: dict[str, object], name: tuple[str, ...]) -> None:
    found = space[name[0]]
    assert callable(found)
    if len(name) == 1:
        found(*[1] * len(inspect.signature(found).parameters))
    else:
        getattr(found(name[1]), name[1])()


def test_a_test_that_is_defined_elsewhere_is_replaced() -> None:
    text = make_sentinel("from other import Base\n\n\nclass TestX(Base):\n    pass\n", "t.py::TestX::test_y")
    body = text.replace("from other import Base", "class Base:\n    def test_y(self, case): pass")
    space: dict[str, object] = {}
    exec(body, space)
    test = getattr(space["TestX"], "test_y")  # noqa: B009
    assert list(inspect.signature(test).parameters) == ["self", "case"]
    with pytest.raises(AssertionError):
        test(None, case=1)


def test_the_small_task_is_what_its_spec_says() -> None:
    assert parse_spec(text_of(BODY)).repo_tests == TESTS
