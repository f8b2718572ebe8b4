"""Real files of every format become the same records; bad rows are rejects with line and reason."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from forklight_core.blobs import FolderBlobStore
from forklight_core.errors import BusyError, DataLossError, InvalidInputError
from forklight_data.importing import ImportReport, ImportRequest, import_rows
from forklight_data.reading.lines import MOST_LINE_BYTES
from forklight_data.record import Domain
from forklight_data.shapes import ColumnMapping

VERL = {
    "data_source": "gsm",
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 5, "split": "train"},
}
PLAIN = [{"question": f"{number}+1?", "answer": str(number + 1)} for number in range(300)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(
    tmp_path: Path, source: Path, **more: Any
) -> tuple[ImportReport, list[dict[str, Any]], list[dict[str, Any]]]:
    out = tmp_path / "out.jsonl"
    report = import_rows(ImportRequest(sources=(source,), out=out, **more))
    return report, read_rows(out), read_rows(tmp_path / "out.rejects.jsonl")


def write_plain(path: Path) -> Path:
    """The same 300 rows in the format that the name asks for."""
    text = "".join(json.dumps(item) + "\n" for item in PLAIN).encode()
    table = pa.Table.from_pylist(PLAIN)
    if path.name.endswith(".parquet"):
        parquet.write_table(table, path, row_group_size=100)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text))
    elif path.name.endswith(".zst"):
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(text)
    elif path.name.endswith(".arrow"):
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=70)
    else:
        path.write_bytes(text)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    report, rows, rejects = run(tmp_path, write_plain(tmp_path / name))
    assert (report.num_read, len(rows), rejects) == (300, 300, [])
    assert [item["prompt"][0]["content"] for item in rows] == [item["question"] for item in PLAIN]
    assert {item["answer"] for item in rows} == {item["answer"] for item in PLAIN}
    again = import_rows(ImportRequest(sources=(tmp_path / "out.jsonl",), out=tmp_path / "again.jsonl"))
    assert again.digest == report.digest


def test_saved_data_sets_are_read_by_their_state_and_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        write_plain(folder / "data-00000-of-00001.arrow")
        (folder / "cache-abc.arrow").write_bytes(b"left over")
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InvalidInputError, match="holds the splits test, train; say which with --split"):
        run(tmp_path, tmp_path / "saved")
    report, rows, _ = run(tmp_path, tmp_path / "saved", split="train")
    assert report.num_read == len(rows) == 300


def test_data_folders_are_read_by_the_names_of_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    write_plain(folder / "train-00000-of-00001.parquet")
    write_plain(folder / "test-00000-of-00001.parquet")
    (tmp_path / "hub" / "README.md").write_text("a page")
    report, rows, _ = run(tmp_path, tmp_path / "hub", split="test", limit=7)
    assert report.num_read == len(rows) == 7


def test_verl_rows_keep_turns_and_places(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist([VERL]), tmp_path / "v.parquet")
    _, (found,), _ = run(tmp_path, tmp_path / "v.parquet")
    assert (found["id"], found["source"], found["domain"]) == ("gsm-train-5", "gsm", "math")
    assert [message["role"] for message in found["prompt"]] == ["system", "user"]
    assert (found["answer"], found["verifier"]["kind"]) == ("2", "math")
    assert found["meta"]["extra_info"]["index"] == 5


def test_verl_programs_become_sandbox_specifications(tmp_path: Path) -> None:
    truth = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "3\n"]}
    named = {"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]}
    rows = [
        {
            **VERL,
            "ability": "code",
            "extra_info": {"index": number},
            "reward_model": {"style": "rule", "ground_truth": text},
        }
        for number, text in enumerate([json.dumps(truth), json.dumps(named), "assert f(1) == 2"])
    ]
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    _, found, (reject,) = run(tmp_path, path)
    assert found[0]["verifier"]["spec"]["tests"] == [
        {"stdin": "1\n", "stdout": "2\n"},
        {"stdin": "2\n", "stdout": "3\n"},
    ]
    assert found[1]["verifier"]["spec"]["tests"] == {
        "entry": "add",
        "cases": [{"args": [1, 2], "expected": 3}],
    }
    assert [item["answer"] for item in found] == ["", ""]
    assert reject["where"] == "v.jsonl:3"


def test_rows_of_verifiers_and_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    rows = [
        {"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2", "info": "{}", "task": "sums"},
        {"question": "1+2?", "answer": 3, "info": {"hint": "count"}},
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    _, found, _ = run(tmp_path, path)
    assert [(item["source"], item["answer"]) for item in found] == [("sums", "2"), ("v", "3")]
    path.write_text(json.dumps({"q": "1+1?", "key": [4], "extra": 1}) + "\n")
    mapping = ColumnMapping(prompt_column="q", answer_column="key", source="mine", domain=Domain.STEM)
    report, (only,), _ = run(tmp_path, path, mapping=mapping)
    assert (only["answer"], only["source"], only["domain"], only["meta"]) == (
        "4",
        "mine",
        "stem",
        {"extra": 1},
    )
    assert "prompt from q, answer from key" in report.shapes["v.jsonl"]
    with pytest.raises(InvalidInputError, match="--prompt-column is 'x', but the columns are extra, key, q"):
        run(tmp_path, path, mapping=ColumnMapping(prompt_column="x"))


def test_bad_rows_are_rejects_and_never_lost(tmp_path: Path) -> None:
    good = b'{"id": "a", "question": "1+1?", "answer": "2"}'
    lines = [
        b"\xef\xbb\xbf" + good,
        b'{"id": "b", "question": "x", "answer": NaN}',
        b'{"id": "c", "question": null, "answer": "2"}',
        b'{"id": "a", "question": "other", "answer": "2"}',
        b"[1, 2]",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"id": "d", "question": ["x"], "answer": "2"}',
        b'{"id": "e", "question": "\\ud800", "answer": "2"}',
        b'{"id": "f", "question": "' + b"x" * 10_000_000 + b'", "answer": "2"}',
        b'{"id": "g", "question": "' + b"x" * (MOST_LINE_BYTES + 5) + b'", "answer": "2"}',
        b"",
        good.replace(b'"a"', b'"h"'),
    ]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    report, rows, rejects = run(tmp_path, path)
    assert [item["id"] for item in rows] == ["a", "f", "h"]
    assert [item["where"] for item in rejects] == [
        f"bad.jsonl:{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 11)
    ]
    assert "id 'a' is taken by row 1" in rejects[2]["reason"]
    assert "longer than" in rejects[-1]["reason"]
    assert report.num_read == report.num_written + report.num_rejected == 12


def test_values_of_tables_are_told_or_refused(tmp_path: Path) -> None:
    rows = [
        {"question": "1+1?", "answer": 2.0, "when": None, "picture": b"png"},
        {"question": "1+2?", "answer": float("nan"), "when": None, "picture": None},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    _, found, rejects = run(tmp_path, tmp_path / "t.parquet")
    assert found == []
    assert ["--leave-out picture" in rejects[0]["reason"], "nan" in rejects[1]["reason"]] == [True, True]
    _, found, rejects = run(tmp_path, tmp_path / "t.parquet", leave_out=frozenset({"picture"}))
    assert (len(found), len(rejects)) == (1, 1)


def test_a_cut_off_file_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.jsonl.gz", "a.jsonl.zst", "a.arrow"):
        path = write_plain(tmp_path / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with pytest.raises(DataLossError, match=r"a\.(parquet|jsonl|arrow)"):
            run(tmp_path, path)
        assert sorted(item.name for item in tmp_path.iterdir() if item.name.startswith("out")) == []
        path.unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.partial").symlink_to("/dev/full")
    with pytest.raises(BusyError, match=r"out\.jsonl: no room on the disk"):
        run(tmp_path, write_plain(tmp_path / "a.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


def test_files_that_are_not_there_or_not_known_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, words in (("none.jsonl", "no such file"), ("a.txt", "unknown kind"), ("empty.jsonl", "no row")):
        with pytest.raises(InvalidInputError, match=words):
            run(tmp_path, tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_nobody_may_read_is_an_error(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.jsonl")
    path.chmod(0)
    with pytest.raises(InvalidInputError, match="Permission denied"):
        run(tmp_path, path)


def test_what_is_large_lies_in_the_store(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path / "blobs")
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", "question": "1?", "answer": "7" * 70_000}) + "\n")
    _, (found,), _ = run(tmp_path, path, blobs=store)
    assert store.get(found["answer"]["ref"]).decode() == "7" * 70_000


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    source = write_plain(tmp_path / "a.jsonl")
    report = import_rows(ImportRequest(sources=(source, source), out=None))
    assert (report.num_written, report.num_rejected) == (300, 300)
    assert [item.name for item in tmp_path.iterdir()] == ["a.jsonl"]
