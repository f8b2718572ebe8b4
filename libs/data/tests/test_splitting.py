"""Parts: stable, whole in their groups, and what a run reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forklight_core.blobs import FolderBlobStore
from forklight_core.errors import InvalidInputError
from forklight_data.parts import read_parts
from forklight_data.record import read_record, write_record
from forklight_data.splitting import SplitRequest, split_records
from forklight_data.statistics import answer_kind, count_records
from forklight_data.statistics_table import lines_of

TEMPLATE = (
    "A walker goes {} km along the shore on the first day and {} km through the forest on the second day, "
    "rests, and then wants to know how many km that were in all"
)
NAMES = ["apple", "brook", "cloud", "dune", "elm", "frost", "grove", "heath", "isle", "jade", "kelp", "lake"]


def record(name: str, text: str, domain: str = "math", **more: Any) -> bytes:
    given: dict[str, Any] = {
        "id": name,
        "source": "s",
        "domain": domain,
        "prompt": [{"role": "user", "content": text}],
        "verifier": {"kind": "math"},
        "answer": "1",
    }
    return write_record(read_record(given | more))


def question(number: int) -> str:
    """No two of them have much in common."""
    digits = [NAMES[(number // 12**place) % 12] + str(place) for place in range(4)]
    return f"{digits[0]} {digits[1]} {digits[2]} {digits[3]} {number} {' '.join(reversed(digits))}?"


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def split(source: Path, folder: Path, *parts: str, **more: Any) -> dict[str, list[str]]:
    request = SplitRequest(source=source, folder=folder, parts=read_parts(parts), **more)
    report = split_records(request)
    found = {
        name: [json.loads(line)["id"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in report.parts
    }
    assert {name: len(ids) for name, ids in found.items()} == {
        n: p["num_rows"] for n, p in report.parts.items()
    }
    return found


def test_rows_that_are_added_move_no_other(tmp_path: Path) -> None:
    lines = [record(f"r{number}", question(number)) for number in range(400)]
    before = split(write(tmp_path / "a.jsonl", lines[:300]), tmp_path / "a", "train=0.8", "test=0.2")
    after = split(write(tmp_path / "b.jsonl", lines[::-1]), tmp_path / "b", "train=0.8", "test=0.2")
    for name in ("train", "test"):
        assert set(before[name]) <= set(after[name])
    assert 40 <= len(before["test"]) <= 80
    other = split(tmp_path / "a.jsonl", tmp_path / "c", "train=0.8", "test=0.2", seed=1)
    assert set(other["test"]) != set(before["test"])


def test_near_duplicates_are_never_torn_apart(tmp_path: Path) -> None:
    lines = [record(f"r{number}", question(number)) for number in range(60)]
    lines += [record(f"t{number}", TEMPLATE.format(number, 2 * number + 7)) for number in range(30)]
    source = write(tmp_path / "a.jsonl", lines)
    homes = set()
    for seed in range(6):
        found = split(source, tmp_path / str(seed), "train=0.5", "test=0.5", seed=seed)
        inside = {name for name, ids in found.items() if any(item.startswith("t") for item in ids)}
        assert len(inside) == 1
        homes |= inside
    assert homes == {"train", "test"}


def test_numbers_are_met_in_every_domain(tmp_path: Path) -> None:
    lines = [
        record(f"{domain}{n}", question(n + at * 100), domain)
        for at, domain in enumerate(("math", "stem"))
        for n in range(50)
    ]
    source = write(tmp_path / "a.jsonl", lines)
    found = split(source, tmp_path / "a", "train=rest", "test=7")
    assert sum(name.startswith("math") for name in found["test"]) == 7
    assert len(found["test"]) == 14 and len(found["train"]) == 86
    with pytest.raises(InvalidInputError, match="too few"):
        split(source, tmp_path / "b", "train=rest", "test=51")


def test_an_earlier_split_is_kept(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [record(f"r{n}", question(n)) for n in range(40)])
    before = split(first, tmp_path / "a", "train=rest", "test=10")
    old = [record(f"r{n}", question(n)) for n in range(40)]
    more = [record(f"n{n}", question(1000 + n)) for n in range(40)]
    second = write(
        tmp_path / "b.jsonl", [*more, *old, record("near", question(int(before["test"][1][1:])) + " please")]
    )
    after = split(second, tmp_path / "b", "train=rest", "test=20", previous=tmp_path / "a")
    assert set(before["train"]) <= set(after["train"]) and set(before["test"]) <= set(after["test"])
    assert "near" in after["test"]
    assert len(after["test"]) in (20, 21)


def test_what_is_near_two_parts_of_an_earlier_split_goes_into_none(tmp_path: Path) -> None:
    old = {"train": TEMPLATE.format(3, 4), "test": TEMPLATE.format(5, 6)}
    (tmp_path / "old").mkdir()
    for name in old:
        (tmp_path / "old" / f"{name}.jsonl").write_text(json.dumps({"id": name}) + "\n")
    (tmp_path / "old" / "split.manifest.json").write_text("{}")
    lines = [record(name, text) for name, text in old.items()] + [record("new", TEMPLATE.format(3, 6))]
    source = write(tmp_path / "a.jsonl", lines)
    found = split(source, tmp_path / "new", "train=0.5", "test=0.5", previous=tmp_path / "old")
    assert found == {"train": ["train"], "test": ["test"]}
    left = json.loads((tmp_path / "new" / "split.left_out.jsonl").read_text())
    assert (left["id"], left["reason"]) == ("new", "near_two_parts")


def test_what_a_run_cannot_read_is_left_out_by_name(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x y z"} for role in ("user", "assistant", "user")]
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    store = FolderBlobStore(tmp_path / "blobs")
    reference = {"ref": store.put(b"42").id}
    lines = [
        record("turns", "", prompt=turns),
        record("system", "", prompt=system),
        record("ref", "what is six times seven", answer=reference),
        record("level", "a b c d", meta={"level": 3, "tools": ["python"], "hint": "none"}),
    ]
    source = write(tmp_path / "a.jsonl", lines)
    split(source, tmp_path / "a", "train=0.5", "test=0.5", by="none", blobs=store)
    written = (tmp_path / "a" / "train.jsonl").read_text() + (tmp_path / "a" / "test.jsonl").read_text()
    rows = {item["id"]: item for item in map(json.loads, written.splitlines())}
    assert rows["system"]["prompt"] == "Be brief.\n\n1+1?"
    assert rows["ref"]["gold"] == "42"
    assert (rows["level"]["level"], rows["level"]["tools"], "hint" in rows["level"]) == (3, ["python"], False)
    (left,) = [
        json.loads(line) for line in (tmp_path / "a" / "split.left_out.jsonl").read_text().splitlines()
    ]
    assert left["id"] == "turns" and "turn of the assistant" in left["detail"]


@pytest.mark.parametrize(
    "parts",
    [
        ("train=1",),
        ("a=0.5", "a=0.5"),
        ("a=0.5", "b=0.4"),
        ("a=0.5", "b=9"),
        ("A=0.5", "b=0.5"),
        ("a=x", "b=rest"),
        ("a=rest", "b=rest"),
        ("a=7", "b=8"),
        ("a=1.5", "b=rest"),
        ("../a=0.5", "b=rest"),
        ("a=nan", "b=rest"),
    ],
)
def test_parts_that_make_no_sense_are_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError):
        read_parts(parts)


def test_statistics_count_what_is_there(tmp_path: Path) -> None:
    measured = [{"k": 10, "passes": passes, "policy_version": "v1"} for passes in (0, 1, 5, 9, 10)]
    lines = [record(f"m{n}", question(n), difficulty=item) for n, item in enumerate(measured)]
    lines += [record("d", question(0).upper()), record("e", question(1), "code", answer="\\frac{1}{2}")]
    found = count_records(write(tmp_path / "a.jsonl", lines))
    assert (found.num_records, found.num_duplicates, found.num_unmeasured) == (7, 1, 2)
    assert found.by_domain == {"math": 6, "code": 1}
    assert found.by_answer == {"integer": 6, "fraction": 1}
    assert [place for place, number in enumerate(found.pass_rates) if number] == [0, 2, 6, 10, 11]
    assert found.prompt_words["p100"] >= found.prompt_words["p0"] > 0
    assert any("always" in line and line.rstrip().endswith("#") for line in lines_of(found))
    kinds = {
        "x+1": "expression",
        "(1,2)": "tuple or interval",
        "\\{1\\}": "set",
        "B": "letter",
        "red dog": "words",
    }
    assert {text: answer_kind(text) for text in kinds} == kinds
