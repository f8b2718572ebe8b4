"""The pool of one-shot places, what a guest may say, and who may remove what."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from forklight_core.errors import ConfigError, InvalidInputError, UnavailableError
from forklight_core.runfile.schema import SandboxSection
from forklight_reward.sandbox.runner import Job, JobKind
from forklight_reward.sandbox.tiers import owner
from forklight_reward.sandbox.tiers.choice import section_of
from forklight_reward.sandbox.tiers.conversation import converse
from forklight_reward.sandbox.tiers.pool import WarmPool
from forklight_reward.sandbox.tiers.wire import HEADER, Place, Transcript, encode_request
from services.reward.tests.tiers.jobs import LIMITS, program


class Maker:
    """Makes numbered places and remembers which live."""

    def __init__(self) -> None:
        self.alive: set[tuple[str, int]] = set()
        self.num_made = 0
        self.most_alive = 0
        self.fails = False
        self._lock = threading.Lock()

    def make(self, key: str) -> tuple[str, int]:
        if self.fails:
            raise UnavailableError("no place today")
        with self._lock:
            self.num_made += 1
            place = (key, self.num_made)
            self.alive.add(place)
            self.most_alive = max(self.most_alive, len(self.alive))
        return place

    def end(self, place: tuple[str, int]) -> None:
        with self._lock:
            self.alive.remove(place)


def wait_for(holds: Callable[[], bool]) -> None:
    """Poll until it holds, at most ten seconds."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_place_is_handed_out_once_and_their_number_is_bounded() -> None:
    maker = Maker()
    pool = WarmPool(maker.make, maker.end, size=3, max_idle_s=60)
    taken = []
    for key in ["a", "b", "a", "a", "c", "a", "a", "a", "a"]:
        taken.append(pool.take(key))
        assert taken[-1][0] == key
        wait_for(lambda: pool.count_waiting() >= 1)
    wait_for(lambda: pool.count_waiting() == 3 and {key for key, _ in maker.alive - set(taken)} == {"a"})
    assert len(set(taken)) == len(taken)
    assert maker.most_alive <= len(taken) + 4
    pool.close()
    assert maker.alive == set(taken)
    with pytest.raises(UnavailableError, match="closed"):
        pool.take("a")


def test_a_pool_that_cannot_refill_recovers_when_asked_again() -> None:
    maker = Maker()
    pool = WarmPool(maker.make, maker.end, size=1, max_idle_s=60)
    maker.fails = True
    with pytest.raises(UnavailableError, match="no place today"):
        pool.take("a")
    maker.fails = False
    pool.take("a")
    wait_for(lambda: pool.count_waiting() == 1)
    pool.close()


def test_a_place_that_waited_too_long_is_replaced() -> None:
    maker = Maker()
    pool = WarmPool(maker.make, maker.end, size=1, max_idle_s=0.2)
    first = pool.take("a")
    wait_for(lambda: maker.num_made >= 4)
    pool.close()
    assert maker.alive == {first}


FRAMES = [
    (b"S", b""),
    (b"O", b"out"),
    (b"E", b"err"),
    (b"R", b"rep"),
    (b"F", b"\0\1xdata"),
    (b"X", b'{"exit_code": 3}'),
]


@given(st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=60))
def test_frames_may_be_cut_anywhere(cuts: list[int]) -> None:
    data = b"".join(HEADER.pack(letter, len(body)) + body for letter, body in FRAMES)
    transcript = Transcript(output_bytes=100, collect_bytes=100)
    for cut in [*cuts, len(data)]:
        transcript.take(data[:cut])
        data = data[cut:]
    assert (bytes(transcript.stdout), bytes(transcript.stderr), bytes(transcript.report)) == (
        b"out",
        b"err",
        b"rep",
    )
    assert transcript.files == {"x": b"data"}
    assert transcript.said == {"exit_code": 3}


@pytest.mark.parametrize("letter", [b"O", b"R", b"F"])
def test_a_guest_that_floods_is_cut_off_in_bounded_memory(letter: bytes) -> None:
    transcript = Transcript(output_bytes=1000, collect_bytes=1000)
    body = b"\0\1x" + b"x" * 60_000
    for _ in range(100):
        if not transcript.is_flooded:
            transcript.take(HEADER.pack(letter, len(body)) + body)
    assert transcript.is_flooded
    kept = len(transcript.stdout) + len(transcript.report) + sum(map(len, transcript.files.values()))
    assert kept < 400_000
    huge = Transcript(output_bytes=1000, collect_bytes=1000)
    huge.take(HEADER.pack(letter, 2**31))
    assert huge.is_flooded


class Spoken:
    """A channel to a guest that says what the test says."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def send(self, data: bytes) -> None:
        """Nobody listens."""

    def receive(self, timeout_s: float) -> bytes | None:
        """Everything at once, then the end."""
        said, self._said = self._said, b""
        return said

    def cpu_s(self) -> float:
        """None."""
        return 0.0


@pytest.mark.parametrize(
    "last",
    [
        b"{",
        b"[]",
        b'{"exit_code": 999}',
        b'{"broke": "AC?"}',
        b'{"cpu_s": NaN}',
        b'{"failed": "no room"}',
        b"[" * 60_000,
    ],
)
def test_a_last_word_that_is_none_is_a_failure_of_the_machinery(last: bytes) -> None:
    said = HEADER.pack(b"S", 0) + HEADER.pack(b"X", len(last)) + last
    with pytest.raises(UnavailableError):
        converse(Spoken(said), b"", program("pass"))


def test_paths_that_leave_the_box_are_refused() -> None:
    for path in ("../x", "/etc/x", "a/../../x", ""):
        with pytest.raises(InvalidInputError):
            encode_request(
                Job(kind=JobKind.COMMAND, command=("x",), files={path: b""}, limits=LIMITS), Place()
            )
        with pytest.raises(InvalidInputError):
            encode_request(Job(kind=JobKind.COMMAND, command=("x",), collect=(path,), limits=LIMITS), Place())


def test_only_what_the_dead_left_is_left_over() -> None:
    mine = owner.label_value()
    realm, pid, began, made = mine.rsplit(".", 3)
    assert pid == str(os.getpid())
    assert len(mine) <= 63
    assert not owner.is_left_over(mine)
    assert owner.is_left_over(f"{realm}.{pid}.{int(began) - 1}.{made}")
    assert not owner.is_left_over(f"elsewhere-1.{pid}.1.{made}")
    assert owner.is_left_over(f"elsewhere-1.{pid}.1.{int(made) - 4000}")
    assert owner.is_left_over("")


def test_a_tier_without_what_it_needs_is_refused_in_the_run_file() -> None:
    with pytest.raises(ValidationError, match="allow_unsafe"):
        SandboxSection(tier="process")
    with pytest.raises(ValidationError, match="needs image"):
        SandboxSection(tier="container")
    with pytest.raises(ConfigError, match="needs image"):
        section_of(tier="pod", image="", allow_unsafe=True)
    assert SandboxSection().tier == "jail"
