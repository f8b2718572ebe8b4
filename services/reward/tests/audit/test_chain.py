"""Files of the audit: no byte changes unseen, a killed writer costs at most the line it was writing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forklight_core.errors import DataLossError
from forklight_reward.audit.check import check_folder
from forklight_reward.audit.log import AuditLog
from forklight_reward.audit.shard import Shard, create_shard, read_shard, repair_shard

TEXTS = st.text(max_size=30)
HERE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, num_lines: int = 6) -> Shard:
    """A file with some lines, still open."""
    shard = create_shard(folder, "run", "pod-0")
    for number in range(num_lines):
        shard.append([{"type": "verdict", "number": number, "evidence": 'x","hash":"y"}\n'}])
    return shard


def faults(folder: Path) -> list[str]:
    return [report.fault for report in check_folder(folder) if report.fault]


def test_every_flipped_bit_is_found_and_its_line_named(tmp_path: Path) -> None:
    shard = written(tmp_path, num_lines=2)
    shard.end()
    sound = shard.path.read_bytes()
    assert faults(tmp_path) == []
    for place in range(len(sound) - 1):
        for bit in (1 << place % 8,) if place % 16 else (1, 2, 4, 8, 16, 32, 64, 128):
            changed = bytearray(sound)
            changed[place] ^= bit
            shard.path.write_bytes(changed)
            line = sound.count(b"\n", 0, place) + 1
            with pytest.raises(DataLossError) as caught:
                read_shard(shard.path)
            assert str(caught.value).startswith(f"{shard.path}:{line}:"), (place, bit, caught.value)
    shard.path.write_bytes(sound[:-1] + b" ")  # the last line end: as if the writer had been killed there
    assert [report.state for report in check_folder(tmp_path)] == ["torn"]


@given(st.lists(TEXTS, min_size=2, max_size=6), st.data())
@HERE
def test_lines_removed_doubled_or_swapped_are_found(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    shard = create_shard(folder, "run", "pod-0")
    shard.append([{"type": "verdict", "text": text} for text in texts])
    shard.end()
    lines = shard.path.read_bytes().splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines) - 2))
    for changed in (
        lines[:place] + lines[place + 1 :],
        [*lines[:place], lines[place], *lines[place:]],
        [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]],
    ):
        shard.path.write_bytes(b"".join(changed))
        with pytest.raises(DataLossError):
            read_shard(shard.path)


@given(st.data())
@HERE
def test_a_file_cut_anywhere_is_mended_and_says_what_was_cut(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    shard = written(folder)
    shard.drop()
    whole = shard.path.read_bytes()
    cut = len(whole) * data.draw(st.integers(0, 1000)) // 1000
    shard.path.write_bytes(whole[:cut])
    num_whole = whole.count(b"\n", 0, cut)
    torn = cut - (whole.rfind(b"\n", 0, cut) + 1)
    assert len(read_shard(shard.path).torn) == torn
    assert repair_shard(shard.path) == torn
    mended = shard.path.read_bytes()
    assert mended.startswith(whole[: cut - torn])
    contents = read_shard(shard.path)
    assert contents.is_closed
    assert contents.num_lines == num_whole + 1 + (1 if torn else 0)
    if torn:
        note = json.loads(mended.splitlines()[num_whole])
        assert (note["type"], note["num_bytes"]) == ("repair", torn)
    assert repair_shard(shard.path) == 0 and shard.path.read_bytes() == mended


def test_a_file_that_is_written_or_broken_is_not_mended(tmp_path: Path) -> None:
    shard = written(tmp_path)
    assert repair_shard(shard.path) == -1  # somebody holds it
    shard.drop()
    broken = shard.path.read_bytes().replace(b'"number":2', b'"number":3')
    shard.path.write_bytes(broken)
    assert repair_shard(shard.path) == -1
    assert shard.path.read_bytes() == broken


def test_lines_cut_off_behind_the_back_of_the_next_file_are_found(tmp_path: Path) -> None:
    first = written(tmp_path)
    first.end()
    second = create_shard(tmp_path, "run", "pod-0")
    second.end()
    assert faults(tmp_path) == []
    lines = first.path.read_bytes().splitlines(keepends=True)
    first.path.write_bytes(b"".join(lines[:-3]))
    assert len(faults(tmp_path)) == 1
    assert f"{second.path}:1: it follows {first.path.name}" in faults(tmp_path)[0]


WRITER = """
import sys
from pathlib import Path
from forklight_reward.audit.shard import create_shard
shard = create_shard(Path(sys.argv[1]), "run", "pod-0")
number = 0
while True:
    shard.append([{"type": "verdict", "number": number + i, "text": "x" * 5000} for i in range(20)])
    number += 20
    print(number, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_loses_no_line_that_was_acknowledged(tmp_path: Path) -> None:
    for round_number in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        num_told = 0
        while num_told < 200 * (round_number + 1):
            num_told = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout:
            num_told = int(line) if line.endswith("\n") else num_told
        writer.wait()
        writer.stdout.close()
        log = AuditLog(tmp_path, run_id="run", pod="pod-0")
        log.open()
        reports = check_folder(tmp_path)
        assert [report.state for report in reports] == ["closed"] * (round_number + 1)
        assert reports[-1].lines["verdict"] >= num_told
