"""The numeric contract: its page and its data say the same, and its hash follows every term."""

import re
from pathlib import Path

import pytest

from forklight_kernels import contract

PAGE = Path(__file__).resolve().parents[1] / "README.md"
SECTION = re.compile(r"^## Numeric contract, version (\d+)$(.*?)^## ", re.MULTILINE | re.DOTALL)
PHRASES = {
    "lightning_chunk": ("lightning", r"\bchunks of (\d+)\b"),
    "softmax_block": ("softmax", r"\bblocks of (\d+) keys\b"),
    "softmax_split": ("softmax", r"\bsplits of (\d+)\b"),
    "vocabulary_block": ("head", r"\bblocks of (\d+) ids\b"),
}
"""Where a term's number stands on the page: the row of the table, and the words around it."""


def section() -> re.Match[str]:
    found = SECTION.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, "kernels/README.md has no section `## Numeric contract, version N`"
    return found


def rows() -> dict[str, str]:
    """The page's table: what -> rule."""
    cells = re.findall(r"^\| (\w+) \| (.+) \|$", section()[2], re.MULTILINE)
    return {what: rule for what, rule in cells if what != "what"}


def test_the_page_has_the_version_of_the_data() -> None:
    assert int(section()[1]) == contract.TERMS["version"] == contract.VERSION


@pytest.mark.parametrize("term", PHRASES)
def test_the_page_has_every_number_in_its_row(term: str) -> None:
    row, phrase = PHRASES[term]
    numbers = re.findall(phrase, rows()[row])
    assert numbers == [str(contract.TERMS[term])], f"row {row}: {rows()[row]}"


def test_the_page_has_a_row_for_every_rule_and_a_phrase_for_every_number() -> None:
    rules = {name for name, value in contract.TERMS.items() if isinstance(value, str)}
    assert rules == set(rows())
    assert {name for name in contract.TERMS if name not in rules} == {"version", *PHRASES}


@pytest.mark.parametrize("term", contract.TERMS)
def test_the_hash_changes_with_every_term(term: str) -> None:
    value = contract.TERMS[term]
    changed = {**contract.TERMS, term: value + 1 if isinstance(value, int) else value + "."}
    assert contract.contract_hash(changed) != contract.contract_hash()
    assert contract.contract_hash({**changed, term: value}) == contract.contract_hash()


def test_the_hash_does_not_depend_on_the_order_of_terms() -> None:
    backwards = dict(reversed(contract.TERMS.items()))
    assert list(backwards) != list(contract.TERMS)
    assert contract.contract_hash(backwards) == contract.contract_hash()
    assert len(contract.contract_hash()) == contract.HASH_LENGTH
