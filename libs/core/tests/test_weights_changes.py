"""Records of changes: exact to the bit whatever changed, small where little did, never trusted when torn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_core.errors import WeightsError
from forklight_core.weights import changes
from forklight_core.weights.changes import (
    HEAD,
    NO_CHANGES,
    UNSIGNED,
    Bytes,
    Elements,
    Places,
    Record,
    Steps,
    decode_chunk,
    encode_chunk,
    read_records,
)

SIZES = [1, 2, 3, 7, 8, 9, 255, 256, 1000, 20_000]
BFLOAT16 = {"one": 0x3F80, "nan": 0x7FC1, "negative nan": 0xFFA5, "inf": 0x7F80, "zero": 0, "-0.0": 0x8000}


def make_values(size: int, element_bytes: int, seed: int) -> Elements:
    chance = np.random.default_rng(seed)
    return chance.integers(0, 256, size * element_bytes, dtype=np.uint8).view(UNSIGNED[element_bytes])


def change(values: Elements, density: float, largest_step: int, seed: int) -> Elements:
    """Some elements a few bit patterns up or down, around the end of the range, too."""
    chance = np.random.default_rng(seed)
    new = values.copy()
    places = np.flatnonzero(chance.random(len(values)) < density)
    steps = chance.integers(-largest_step, largest_step + 1, len(places))
    new[places] += steps.astype(np.int64).astype(values.dtype)
    return new


def apply(record: bytes, base: Elements) -> Elements:
    (found,) = read_records(np.frombuffer(record, np.uint8))
    new = base.copy()
    decode_chunk(found, new)
    return new


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.sampled_from(SIZES),
    element_bytes=st.sampled_from([1, 2, 4, 8]),
    density=st.sampled_from([0.0, 0.0001, 0.003, 0.05, 0.2, 0.6, 1.0]),
    largest_step=st.sampled_from([1, 2, 127, 128, 40_000, 2**40]),
    seed=st.integers(0, 2**32),
)
def test_a_record_makes_the_base_into_the_new_chunk(
    size: int, element_bytes: int, density: float, largest_step: int, seed: int
) -> None:
    base = make_values(size, element_bytes, seed)
    new = change(base, density, largest_step, seed + 1)
    record = encode_chunk(new, base)
    assert np.array_equal(apply(record, base), new)
    assert len(record) <= HEAD.size + new.nbytes


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_runs_of_changes_with_long_gaps_are_exact(data: st.DataObject) -> None:
    """What even random changes never look like: whole rows, and nothing in between."""
    size = data.draw(st.integers(1, 100_000))
    base = make_values(size, 2, 5)
    new = base.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, size - 1))
        new[start : start + data.draw(st.integers(1, 300))] ^= 1
    assert np.array_equal(apply(encode_chunk(new, base), base), new)


def test_every_way_to_say_places_is_used_where_it_is_shortest() -> None:
    base = np.zeros(1 << 16, np.uint16)
    used = {}
    for density in (1e-4, 0.02, 0.1, 0.4):
        (record,) = read_records(np.frombuffer(encode_chunk(change(base, density, 1, 3), base), np.uint8))
        used[density] = record.places
    assert list(used.values()) == [Places.GAPS_16, Places.GAPS_8, Places.GAPS_4, Places.BITS]


def test_nothing_is_stored_where_nothing_changed() -> None:
    values = make_values(1000, 2, 0)
    assert encode_chunk(values.copy(), values) == NO_CHANGES
    empty = values[:0]
    assert encode_chunk(empty, empty) == NO_CHANGES


def test_a_chunk_that_changed_everywhere_is_stored_as_it_is() -> None:
    base, new = make_values(1000, 2, 0), make_values(1000, 2, 1)
    assert len(encode_chunk(new, base)) <= HEAD.size + new.nbytes
    assert np.array_equal(apply(encode_chunk(new, base), base), new)


@pytest.mark.parametrize("before", BFLOAT16)
@pytest.mark.parametrize("after", BFLOAT16)
def test_odd_values_keep_their_bits(before: str, after: str) -> None:
    """Patterns that compare equal as numbers (0 and -0.0), or not even to themselves (NaN)."""
    base = np.full(100, BFLOAT16[before], np.uint16)
    new = base.copy()
    new[::7] = BFLOAT16[after]
    assert np.array_equal(apply(encode_chunk(new, base), base), new)


@pytest.mark.parametrize(("num_updates", "most"), [(1, 0.04), (16, 0.10)])
def test_changes_of_small_updates_are_a_small_share(num_updates: int, most: float) -> None:
    """AdamW at 1e-6 on weights of 0.02: its steps are the learning rate's size, their signs mostly random."""
    chance = np.random.default_rng(0)
    master = chance.normal(0.0, 0.02, 200_000)
    base = as_bfloat16(master)
    for _ in range(num_updates):
        master += 1e-6 * chance.choice([-1.0, 1.0], len(master), p=[0.4, 0.6])
    new = as_bfloat16(master)
    share = len(encode_chunk(new, base)) / new.nbytes
    assert 0.01 < share < most
    assert np.array_equal(apply(encode_chunk(new, base), base), new)


def as_bfloat16(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Elements:
    """Bit patterns, rounded to the nearest."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    places=st.sampled_from(list(Places)),
    steps=st.sampled_from(list(Steps)),
    num_changed=st.integers(0, 70),
    body=st.binary(max_size=200),
    share=st.floats(0, 1),
)
def test_a_torn_record_is_refused_or_harmless(
    places: Places, steps: Steps, num_changed: int, body: bytes, share: float
) -> None:
    """Bytes are hashed before they get here, so this must only never read or write elsewhere."""
    data = np.frombuffer(body, np.uint8)
    record = Record(places, steps, num_changed, int(share * len(body)), data)
    elements = np.zeros(64, np.uint16)
    try:
        decode_chunk(record, elements)
    except WeightsError:
        return
    assert len(elements) == 64


@pytest.mark.parametrize(
    "payload",
    [b"\x01", HEAD.pack(9, 0, 0, 0, 0), HEAD.pack(0, 7, 0, 0, 0), HEAD.pack(1, 0, 0, 0, 50) + b"short"],
)
def test_bytes_that_are_no_records_are_refused(payload: bytes) -> None:
    with pytest.raises(WeightsError, match="torn"):
        list(read_records(np.frombuffer(payload, np.uint8)))


def test_records_follow_each_other() -> None:
    base = make_values(1000, 2, 0)
    new = change(base, 0.3, 1, 1)
    chunks = [slice(0, 400), slice(400, 800), slice(800, 1000)]
    payload: Bytes = np.frombuffer(b"".join(encode_chunk(new[c], base[c]) for c in chunks), np.uint8)
    found = base.copy()
    for record, chunk in zip(read_records(payload), chunks, strict=True):
        decode_chunk(record, found[chunk])
    assert np.array_equal(found, new)
    assert changes.CHUNK_ELEMENTS % 8 == 0
