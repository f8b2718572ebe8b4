"""Files that are whole or absent, and what is no file."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from forklight_core.errors import BusyError, InvalidInputError
from forklight_core.whole_files import WholeFile, digest_of


def test_the_old_file_stays_when_the_new_one_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(RuntimeError), WholeFile(path) as file:
        file.write(b"new\n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with WholeFile(path) as file:
        file.write(b"new\n")
    assert path.read_text() == "new\n" and list(tmp_path.iterdir()) == [path]
    assert (file.num_lines, file.digest) == (1, digest_of(path))


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    path, found = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    with WholeFile(path) as file:
        file.write(b"line\n")
    reader.join(10)
    assert found == [b"line\n"] and stat.S_ISFIFO(path.stat().st_mode)


def test_a_full_disk_and_a_wrong_place_are_named(tmp_path: Path) -> None:
    device = Path("/dev/full")
    with pytest.raises(BusyError, match="/dev/full: no room"), WholeFile(device) as file:
        file.write(b"x")
    assert stat.S_ISCHR(device.stat().st_mode)
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file" / "x", tmp_path):
        with pytest.raises(InvalidInputError, match="check the path"), WholeFile(wrong):
            pass
