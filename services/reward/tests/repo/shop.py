"""A small task for the tests: a faulty tree, hidden tests, the fix, and patches made from whole files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from forklight_reward.sandbox.repo.spec import RepoTests
from forklight_reward.sandbox.spec import Limits

LIMITS = Limits(cpu_s=4.0, wall_s=20.0, memory_mb=256, pids=16, output_bytes=2**18, disk_mb=8)
PRICE = '''"""Prices."""


def total(prices):
    """The sum of all prices."""
    result = 0
    for price in prices[1:]:
        result += price
    return result


def label(price):
    """A price for people."""
    if price < 0:
        raise ValueError("a price is not negative")
    return f"{price:.2f} EUR"
'''
FIXED = PRICE.replace("prices[1:]", "prices")
OLD_TEST = "from shop.price import label\n\n\ndef test_label():\n    assert label(2) == '2.00 EUR'\n"
FILES = {
    "shop/__init__.py": "",
    "shop/price.py": PRICE,
    "shop/notes.md": "# Notes\n\n```python\ntotal([1])\n```\n",
    "tests/test_price.py": OLD_TEST,
    "pyproject.toml": '[project]\nname = "shop"\n',
}
HIDDEN = {
    "tests/test_price.py": """import pytest

from shop.price import label, total


def test_total():
    assert total([1, 2, 3]) == 6
    assert total([]) == 0


def test_label():
    assert label(2) == "2.00 EUR"


def test_negative():
    with pytest.raises(ValueError):
        label(-1)
"""
}
F2P = ["tests/test_price.py::test_total"]
P2P = ["tests/test_price.py::test_label", "tests/test_price.py::test_negative"]
TESTS = RepoTests(files=FILES, hidden=HIDDEN, f2p=F2P, p2p=P2P)


def diff_of(changed: Mapping[str, str | None], files: Mapping[str, str] = FILES) -> str:
    """A unified diff from the tree to other contents of some files; None deletes one."""
    parts = []
    for path, text in changed.items():
        old, new = files.get(path), text
        lines = difflib.unified_diff(
            (old or "").splitlines(keepends=True),
            (new or "").splitlines(keepends=True),
            "/dev/null" if old is None else f"a/{path}",
            "/dev/null" if new is None else f"b/{path}",
        )
        parts.append("".join(lines))
    return "".join(parts)


FIX = diff_of({"shop/price.py": FIXED})
