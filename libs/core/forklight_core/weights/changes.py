"""How a tensor's changes against the version before are stored: chunk by chunk, exact to the bit.

A chunk is a fixed number of elements. Its record is a head and a body: nothing where all elements are the
same; the elements themselves where too many differ; else which elements differ, and by how much. Elements
are looked at as unsigned integers of their size, so a change is a step between bit patterns: an optimizer at
a small learning rate moves a 16-bit weight to its neighbour or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from forklight_core.errors import WeightsError

Bytes = NDArray[np.uint8]
Elements = NDArray[np.unsignedinteger]
Indices = NDArray[np.intp]

CHUNK_ELEMENTS = 1 << 19
"""Of a record. Part of the format: a reader finds a record by counting."""
HEAD = struct.Struct("<BBxxIII")
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
LARGEST_STEP = 127
NIBBLES = np.array([byte & 15 | byte >> 4 << 8 for byte in range(256)], np.uint16)
"""Both halves of a byte, a byte each."""
NOTHING = np.empty(0, np.intp)


def _one_steps(element_bytes: int) -> Elements:
    """For each byte of bits the eight steps that they say: down where one is set, up where it is not."""
    is_down = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return (1 - 2 * is_down.astype(np.int8)).astype(SIGNED[element_bytes]).view(UNSIGNED[element_bytes])


ONE_STEPS = {element_bytes: _one_steps(element_bytes) for element_bytes in UNSIGNED}


class Places(IntEnum):
    """How a record says which elements differ."""

    NONE = 0  # no element does
    WHOLE = 1  # the body is the chunk
    GAPS_4 = 2  # numbers of equal elements between them, in digits of 4, 8 or 16 bits; a full digit goes on
    GAPS_8 = 3
    GAPS_16 = 4
    BITS = 5  # a bit for every element


class Steps(IntEnum):
    """How a record says by how much."""

    BITS = 0  # one bit each for down (else up), one each for neither; then those as BYTES
    BYTES = 1  # a byte each, 0 for a step beyond a byte; then the values of those


@dataclass(frozen=True, slots=True)
class Record:
    """A chunk's record, its body not yet looked into."""

    places: Places
    steps: Steps
    num_changed: int
    places_bytes: int
    body: Bytes


NO_CHANGES = HEAD.pack(Places.NONE, 0, 0, 0, 0)
"""The record of a chunk in which nothing differs."""


def encode_chunk(new: Elements, base: Elements) -> bytes:
    """The record that makes `base` into `new`."""
    differs = new != base
    changed = np.flatnonzero(differs)
    if not len(changed):
        return NO_CHANGES
    values = new.take(changed)
    steps, body = _encode_steps(values - base.take(changed), values)
    code = _choose_places(len(changed), len(new))
    places = np.packbits(differs).tobytes() if code is Places.BITS else _encode_gaps(changed, code)
    if len(places) + len(body) >= new.nbytes:
        return HEAD.pack(Places.WHOLE, 0, len(new), 0, new.nbytes) + new.tobytes()
    head = HEAD.pack(code, steps, len(changed), len(places), len(places) + len(body))
    return b"".join((head, places, body))


def decode_chunk(record: Record, elements: Elements) -> None:
    """Make the base's chunk in `elements` into the new one, in place."""
    match record.places:
        case Places.NONE:
            return
        case Places.WHOLE:
            _require(len(record.body) == elements.nbytes)
            elements.view(np.uint8)[:] = record.body
        case _:
            changed = _decode_places(record, len(elements))
            _require(len(changed) == record.num_changed > 0 and changed[-1] < len(elements))
            _apply_steps(record, elements, changed)


def read_records(payload: Bytes) -> Iterator[Record]:
    """The records of a payload, one a chunk; WeightsError where it is none."""
    place = 0
    while place < len(payload):
        _require(place + HEAD.size <= len(payload))
        places, steps, num_changed, places_bytes, num_bytes = HEAD.unpack_from(payload.data, place)
        place += HEAD.size
        _require(places <= max(Places) and steps <= max(Steps) and place + num_bytes <= len(payload))
        body = payload[place : place + num_bytes]
        yield Record(Places(places), Steps(steps), num_changed, places_bytes, body)
        place += num_bytes


def as_elements(data: Bytes, element_bytes: int) -> Elements:
    """Bytes as unsigned integers; no copy is made."""
    return data.view(UNSIGNED[element_bytes])


def _choose_places(num_changed: int, num_elements: int) -> Places:
    """The shortest way to say them where changes lie anywhere; others are a little longer then."""
    same = 1 - num_changed / num_elements

    def num_digits(full: int) -> float:
        """Of a change: one, and another one for each time that so many elements before it are the same."""
        return 1 / (1 - same**full)

    lengths = {
        Places.GAPS_4: num_changed * num_digits(15) / 2,
        Places.GAPS_8: num_changed * num_digits(255),
        Places.GAPS_16: num_changed * num_digits(65535) * 2,
        Places.BITS: num_elements / 8,
    }
    return min(lengths, key=lambda code: lengths[code])


def _encode_gaps(changed: Indices, code: Places) -> bytes:
    full, dtype = _digits(code)
    gaps = changed.astype(np.uint32)  # how many equal elements are before each
    gaps[1:] -= gaps[:-1] + np.uint32(1)
    num_full, last = np.divmod(gaps, np.uint32(full))
    ends = np.cumsum(num_full + np.uint32(1), dtype=np.intp)
    ends -= 1
    digits = np.full(int(ends[-1]) + 1, full, dtype)
    digits[ends] = last
    if code is not Places.GAPS_4:
        return digits.tobytes()
    if len(digits) % 2:
        digits = np.append(digits, dtype(full))  # a digit that goes on and is not gone on with says nothing
    halves = digits.astype(np.uint8, copy=False)
    return np.bitwise_or(halves[::2], np.left_shift(halves[1::2], 4)).tobytes()


def _decode_places(record: Record, num_elements: int) -> Indices:
    data = record.body[: record.places_bytes]
    _require(len(data) == record.places_bytes)
    if record.places is Places.BITS:
        _require(len(data) == (num_elements + 7) // 8)
        return np.flatnonzero(np.unpackbits(data, count=num_elements).view(np.bool_))
    full, dtype = _digits(record.places)
    if record.places is Places.GAPS_4:
        digits: Elements = NIBBLES.take(data).view(np.uint8)
    else:
        _require(len(data) % np.dtype(dtype).itemsize == 0)
        digits = np.frombuffer(data.tobytes(), dtype)
    is_end = digits != full
    behind = np.cumsum(digits + is_end, dtype=np.intp)  # no digit that ends a gap is the largest of its type
    changed = behind.take(np.flatnonzero(is_end))
    changed -= 1
    return changed


def _digits(code: Places) -> tuple[int, type[np.unsignedinteger]]:
    """The digit that goes on, and what digits are held in."""
    if code is Places.GAPS_16:
        return 65535, np.uint16
    return (15 if code is Places.GAPS_4 else 255), np.uint8


def _encode_steps(steps: Elements, values: Elements) -> tuple[Steps, bytes]:
    """Two bits each where most of them are one up or one down; else a byte each."""
    is_down = steps == steps.dtype.type(-1 % (1 << 8 * steps.itemsize))
    is_one = steps == 1
    is_one |= is_down
    num_bytes, num_others = (len(steps) + 7) // 8, len(steps) - int(np.count_nonzero(is_one))
    if len(steps) <= 2 * num_bytes + num_others:
        return Steps.BYTES, _encode_bytes(steps, values)
    downs = np.packbits(is_down).tobytes()
    if not num_others:
        return Steps.BITS, downs + bytes(num_bytes)
    is_other = ~is_one
    others = np.flatnonzero(is_other)
    rest = _encode_bytes(steps.take(others), values.take(others))
    return Steps.BITS, b"".join((downs, np.packbits(is_other).tobytes(), rest))


def _encode_bytes(steps: Elements, values: Elements) -> bytes:
    """A byte for each step; those beyond a byte are 0, which no step is, and their values follow."""
    signed = steps.view(SIGNED[steps.itemsize])
    is_small = (signed >= -LARGEST_STEP) & (signed <= LARGEST_STEP)
    small = signed.astype(np.int8) * is_small
    return small.tobytes() + values.take(np.flatnonzero(~is_small)).tobytes()


def _apply_steps(record: Record, elements: Elements, changed: Indices) -> None:
    data = record.body[record.places_bytes :]
    if record.steps is Steps.BYTES:
        _apply_bytes(data, elements, changed)
        return
    num_bytes = (len(changed) + 7) // 8
    _require(len(data) >= 2 * num_bytes)
    downs, other_bits = data[:num_bytes], data[num_bytes : 2 * num_bytes]
    steps = ONE_STEPS[elements.itemsize].take(downs, axis=0).reshape(-1)[: len(changed)]
    others = np.flatnonzero(np.unpackbits(other_bits, count=len(changed))) if other_bits.any() else NOTHING
    steps[others] = 0  # done below
    elements[changed] += steps
    _apply_bytes(data[2 * num_bytes :], elements, changed.take(others))


def _apply_bytes(data: Bytes, elements: Elements, changed: Indices) -> None:
    _require(len(data) >= len(changed))
    small = data[: len(changed)].view(np.int8)
    beyond = changed.take(np.flatnonzero(small == 0))
    values = data[len(changed) :].tobytes()
    _require(len(values) == len(beyond) * elements.itemsize)
    elements[changed] += small.astype(SIGNED[elements.itemsize]).view(elements.dtype)
    elements[beyond] = np.frombuffer(values, elements.dtype)


def _require(is_so: bool) -> None:
    if not is_so:
        raise WeightsError("a record of changes is not what this build writes: the file is torn")
