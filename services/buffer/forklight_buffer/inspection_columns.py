"""Terminal samples as columns in memory, to be searched by any bounds in any order. N samples.

A row is some 60 bytes. A sample's `place` is its id as a number, in the order of the ids, so that no text is
kept of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from forklight_buffer.lookups import Ended
from forklight_core import ids
from forklight_core.errors import InvalidInputError

Array = npt.NDArray[np.generic]
Mask = npt.NDArray[np.bool_]

FIELDS = {
    "place": "i8", "reward": "f8", "ended": "f8", "length": "i4", "step": "i4", "prompt": "i4",
    "reason": "u2", "kind": "u2", "domain": "u2", "state": "u1", "finish": "u1", "purpose": "u1",
}  # fmt: skip
GONE = 0
"""State of a row that was taken back, until the columns are packed."""
SAMPLE_BITS = 10
EVALUATION_SPAN = 100_000
TRAIN_BIT = 1 << 62
MOST_WORDS = 60_000
GROUP = re.compile(r"(?P<run>[^/]+)/(?:g(?P<index>\d{8,})|e(?P<version>\d{6,})-(?P<position>\d{5}))")


class Order(IntEnum):
    """Numbers of the proto."""

    NEWEST = 1
    OLDEST = 2
    HIGHEST_REWARD = 3
    LOWEST_REWARD = 4
    LONGEST = 5
    SHORTEST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What must hold of a sample; None or empty: anything."""

    states: frozenset[int]
    reward: tuple[float | None, float | None] = (None, None)
    length: tuple[int | None, int | None] = (None, None)
    step: tuple[int | None, int | None] = (None, None)
    kind: str = ""
    domain: str = ""
    reason: str = ""
    group_id: str = ""
    prompt_id: str = ""
    finish_reason: int = 0
    purpose: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """A page of sample ids, and what all that match are like."""

    sample_ids: Sequence[str]
    next: str
    num_matching: int
    mean_reward: float
    mean_length: float


class Words:
    """Texts that many samples share, by number; 0 is the empty one."""

    def __init__(self, most: int) -> None:
        self._codes = {"": 0}
        self._most = most

    def code(self, word: str) -> int:
        """The number of a text, a new one if need be; those beyond the bound cannot be told apart."""
        if len(self._codes) >= self._most:
            return self._codes.get(word, self._most)
        return self._codes.setdefault(word, len(self._codes))

    def find(self, word: str) -> int | None:
        """The number of a text that some sample has."""
        return self._codes.get(word)


class Columns:
    """Grows by batches of rows. One caller at a time."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._arrays: dict[str, Array] = {name: np.empty(0, dtype=kind) for name, kind in FIELDS.items()}
        self._size = 0
        self._num_gone = 0
        self._words = {name: Words(MOST_WORDS) for name in ("reason", "kind", "domain")}
        self._prompts = Words(2**31 - 1)

    def __len__(self) -> int:
        return self._size - self._num_gone

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def column(self, name: str) -> Array:
        """One value a row, those taken back included."""
        return self._arrays[name][: self._size]

    def add(self, rows: Sequence[Ended], domains: Sequence[str]) -> None:
        """Put rows in, each with its domain."""
        if not rows:
            return
        end = self._size + len(rows)
        if end > len(self._arrays["place"]):
            self._grow(max(end, 2 * len(self._arrays["place"])))
        names, rewards, ended, lengths, steps, prompts, reasons, kinds, states, finishes, purposes = zip(
            *rows, strict=True
        )
        words, places = self._words, _Places()
        values: dict[str, Sequence[float | None]] = {
            "place": [places.of(name) for name in names],
            "reward": rewards,
            "ended": ended,
            "length": lengths,
            "step": steps,
            "prompt": list(map(self._prompts.code, prompts)),
            "reason": list(map(words["reason"].code, reasons)),
            "kind": list(map(words["kind"].code, kinds)),
            "domain": list(map(words["domain"].code, domains)),
            "state": states,
            "finish": finishes,
            "purpose": purposes,
        }
        for name, column in values.items():
            self._arrays[name][self._size : end] = np.array(column, dtype=FIELDS[name])
        self._size = end

    def _grow(self, capacity: int) -> None:
        for name, array in self._arrays.items():
            larger = np.empty(capacity, dtype=array.dtype)
            larger[: self._size] = array[: self._size]
            self._arrays[name] = larger

    def remove_groups(self, group_ids: Iterable[str]) -> None:
        """Forget all rows of these groups."""
        groups = np.array([_group_place(group) >> SAMPLE_BITS for group in group_ids], dtype=np.int64)
        if not len(groups) or not self._size:
            return
        found = np.isin(self.column("place").astype(np.int64) >> SAMPLE_BITS, groups)
        self._forget(found)

    def keep_newest(self, most: int) -> None:
        """Forget what ended before the newest `most`."""
        if len(self) <= most:
            return
        alive = np.flatnonzero(self.column("state") != GONE)
        ended = self.column("ended")[alive]
        oldest = np.argpartition(ended, len(alive) - most)[: len(alive) - most]
        gone = np.zeros(self._size, dtype=np.bool_)
        gone[alive[oldest]] = True
        self._forget(gone)

    def _forget(self, gone: Mask) -> None:
        state = self.column("state")
        self._num_gone += int(np.count_nonzero(gone & (state != GONE)))
        state[gone] = GONE
        if self._num_gone * 4 > self._size:
            kept = state != GONE
            for name, array in self._arrays.items():
                self._arrays[name] = array[: self._size][kept].copy()
            self._size, self._num_gone = int(np.count_nonzero(kept)), 0

    def find(self, bounds: Bounds, order: Order, after: str, limit: int) -> Hits:
        """A page of what matches; `after` is the `next` of the page before."""
        rows = np.flatnonzero(self._matching(bounds))
        place = self.column("place")[rows].astype(np.int64)
        keys = self._keys(order, rows)
        page = _page(keys, place, _cursor(after), limit + 1)
        more, page = len(page) > limit, page[:limit]
        rewards = self.column("reward")[rows].astype(np.float64)
        rewards = rewards[~np.isnan(rewards)]
        lengths = self.column("length")[rows]
        return Hits(
            sample_ids=[sample_at(self._run_id, int(place[at])) for at in page],
            next=f"{float(keys[page[-1]])!r}|{int(place[page[-1]])}" if more else "",
            num_matching=len(rows),
            mean_reward=float(rewards.mean()) if len(rewards) else 0.0,
            mean_length=float(lengths.astype(np.float64).mean()) if len(rows) else 0.0,
        )

    def _matching(self, bounds: Bounds) -> Mask:
        mask: Mask = np.isin(self.column("state"), np.array(sorted(bounds.states), dtype=np.uint8))
        mask &= self.column("state") != GONE
        for name, (low, high) in (
            ("reward", bounds.reward),
            ("length", bounds.length),
            ("step", bounds.step),
        ):
            column = self.column(name)
            if low is not None:
                mask &= column >= np.float64(low)
            if high is not None:
                mask &= column <= np.float64(high)
        if bounds.step != (None, None):
            mask &= self.column("step") > np.int32(0)
        if bounds.group_id:
            mask &= self.column("place").astype(np.int64) >> SAMPLE_BITS == (
                _group_place(bounds.group_id) >> SAMPLE_BITS
            )
        for name, wanted in (("finish", bounds.finish_reason), ("purpose", bounds.purpose)):
            if wanted:
                mask &= self.column(name) == wanted
        return self._with_words(mask, bounds)

    def _with_words(self, mask: Mask, bounds: Bounds) -> Mask:
        for name, word in (("reason", bounds.reason), ("kind", bounds.kind), ("domain", bounds.domain)):
            if word:
                code = self._words[name].find(word)
                mask &= self.column(name) == (-1 if code is None else code)
        if bounds.prompt_id:
            code = self._prompts.find(bounds.prompt_id)
            mask &= self.column("prompt") == (-1 if code is None else code)
        return mask

    def _keys(self, order: Order, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """What is sorted by, smallest first."""
        name = {
            Order.NEWEST: "ended",
            Order.OLDEST: "ended",
            Order.LONGEST: "length",
            Order.SHORTEST: "length",
        }
        keys = self.column(name.get(order, "reward"))[rows].astype(np.float64)
        if order in (Order.NEWEST, Order.HIGHEST_REWARD, Order.LONGEST):
            keys = -keys
        return np.where(np.isnan(keys), np.inf, keys)


def _page(
    keys: npt.NDArray[np.float64],
    place: npt.NDArray[np.int64],
    cursor: tuple[float, int] | None,
    limit: int,
) -> npt.NDArray[np.intp]:
    """Where the first `limit` are, by key and then by place, behind a cursor."""
    at = np.arange(len(keys))
    if cursor is not None:
        at = np.flatnonzero((keys > cursor[0]) | ((keys == cursor[0]) & (place > cursor[1])))
    if len(at) > limit:
        worst = np.partition(keys[at], limit - 1)[limit - 1]
        better = at[keys[at] < worst]
        equal = at[keys[at] == worst]
        num_equal = limit - len(better)
        if len(equal) > num_equal:
            equal = equal[np.argpartition(place[equal], num_equal - 1)[:num_equal]]
        at = np.concatenate([better, equal])
    return at[np.lexsort((place[at], keys[at]))]


def _cursor(after: str) -> tuple[float, int] | None:
    if not after:
        return None
    key, _, place = after.partition("|")
    try:
        return float(key), int(place)
    except ValueError:
        raise InvalidInputError(f"after {after[:80]!r} is not the `next` of a page of a search") from None


class _Places:
    """Numbers of sample ids; those of a group come one after the other."""

    def __init__(self) -> None:
        self._group, self._number = "", 0

    def of(self, sample: str) -> int:
        """The number of an id; InvalidInputError for an id that no sample can have."""
        group, _, index = sample.rpartition("/s")
        if group != self._group:
            self._group, self._number = group, _group_place(group)
        return self._number | int(index)


def _group_place(group_id: str) -> int:
    found = GROUP.fullmatch(group_id)
    if found is None:
        raise InvalidInputError(
            f"{group_id[:80]!r} is not a group id: expected RUN/gNNNNNNNN or RUN/eVVVVVV-NNNNN"
        )
    if found["index"]:
        return TRAIN_BIT | int(found["index"]) << SAMPLE_BITS
    return (int(found["version"]) * EVALUATION_SPAN + int(found["position"])) << SAMPLE_BITS


def sample_at(run_id: str, place: int) -> str:
    """The sample id of a number."""
    group, index = (place & ~TRAIN_BIT) >> SAMPLE_BITS, place & ((1 << SAMPLE_BITS) - 1)
    if place & TRAIN_BIT:
        return ids.sample_id(ids.training_group_id(run_id, group), index)
    version, position = divmod(group, EVALUATION_SPAN)
    return ids.sample_id(ids.evaluation_group_id(run_id, version, position), index)
