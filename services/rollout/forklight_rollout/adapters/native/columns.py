"""What a decode step needs to know of each row, on the device: one tensor a type, one line of it a column.

Legend: R rows, M rows just added, B rows of a step, K stop ids.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from forklight_kernels import SampledTokens, SamplingRequest, sampler
from forklight_kernels.end_rules import EndColumns, apply_end_rules
from forklight_rollout.adapters.native.sequences import Row
from forklight_rollout.ports import MOST_STOP_IDS

NO_STOP_ID = -1


class _Long(IntEnum):
    IS_LIVE, LAST_ID, POSITION, SEED, NUM_TOKENS, MAX_TOKENS = range(6)


class _Int(IntEnum):
    TOP_K, NUM_CERTAIN, CERTAIN_LIMIT = range(3)


class _Float(IntEnum):
    TEMPERATURE, TOP_P, MIN_P, CERTAIN_LOGPROB = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLines:
    """What M rows start with, in plain numbers, row after row."""

    longs: Sequence[int]
    ints: Sequence[int]
    floats: Sequence[float]
    stops: Sequence[int]

    @property
    def num_rows(self) -> int:
        return len(self.stops) // MOST_STOP_IDS

    @classmethod
    def of(cls, rows: Sequence[Row]) -> RowLines:
        """Of sequences as they stand."""
        longs, ints, floats, stops = array("q"), array("q"), array("d"), array("q")
        for row in rows:
            draw, end = row.draw, row.end
            longs.extend((1, 0, row.position, _signed(row.seed), len(row.ids), end.max_new_tokens))
            ints.extend((draw.top_k, row.num_certain, end.repetition_tokens))
            certain = math.log(end.repetition_probability) if end.repetition_tokens else 0.0
            floats.extend((draw.temperature, draw.top_p, draw.min_p, certain))
            stops.extend([*sorted(end.stop_ids), *[NO_STOP_ID] * MOST_STOP_IDS][:MOST_STOP_IDS])
        return cls(longs=longs, ints=ints, floats=floats, stops=stops)


class RowColumns:
    """Row i of the batch is place i of every column. A row that is not live takes part in nothing."""

    def __init__(self, num_rows: int, device: torch.device | str) -> None:
        self._longs_CR = torch.zeros(len(_Long), num_rows, dtype=torch.int64, device=device)
        self._ints_CR = torch.zeros(len(_Int), num_rows, dtype=torch.int32, device=device)
        self._floats_CR = torch.ones(len(_Float), num_rows, dtype=torch.float32, device=device)
        self._stop_ids_RK = torch.full(
            (num_rows, MOST_STOP_IDS), NO_STOP_ID, dtype=torch.int64, device=device
        )
        self._reasons_R = torch.zeros(num_rows, dtype=torch.uint8, device=device)

    @property
    def is_live_R(self) -> Tensor:
        return self._longs_CR[_Long.IS_LIVE]

    @property
    def last_ids_R(self) -> Tensor:
        """What each row is fed next."""
        return self._longs_CR[_Long.LAST_ID]

    def draw(self, logits_BV: Tensor, rows: slice, *, is_filtered: bool) -> tuple[SampledTokens, Tensor]:
        """The next token of these rows, and why each ends with it (0: it does not)."""
        long_CB, int_CB, float_CB = (
            columns[:, rows] for columns in (self._longs_CR, self._ints_CR, self._floats_CR)
        )
        request = SamplingRequest(
            temperatures_B=float_CB[_Float.TEMPERATURE],
            top_ps_B=float_CB[_Float.TOP_P],
            top_ks_B=int_CB[_Int.TOP_K],
            min_ps_B=float_CB[_Float.MIN_P],
            seeds_B=long_CB[_Long.SEED],
            positions_B=long_CB[_Long.POSITION],
            # Known without asking the device: a GPU then need not look for a filter's border.
            is_filtered=is_filtered,
        )
        tokens = sampler(logits_BV, request)
        ends = EndColumns(
            is_live_B=long_CB[_Long.IS_LIVE],
            num_tokens_B=long_CB[_Long.NUM_TOKENS],
            max_tokens_B=long_CB[_Long.MAX_TOKENS],
            num_certain_B=int_CB[_Int.NUM_CERTAIN],
            certain_limits_B=int_CB[_Int.CERTAIN_LIMIT],
            certain_logprobs_B=float_CB[_Float.CERTAIN_LOGPROB],
            stop_ids_BK=self._stop_ids_RK[rows],
            reasons_B=self._reasons_R[rows],
            last_ids_B=long_CB[_Long.LAST_ID],
            positions_B=long_CB[_Long.POSITION],
        )
        apply_end_rules(tokens, ends)
        return tokens, ends.reasons_B

    def write(self, first: int, lines: RowLines) -> None:
        """Rows from `first` on are these, about to draw."""
        rows = slice(first, first + lines.num_rows)
        self._longs_CR[:, rows] = self._sent(lines.longs, torch.int64, lines.num_rows).T
        self._ints_CR[:, rows] = self._sent(lines.ints, torch.int32, lines.num_rows).T
        self._floats_CR[:, rows] = self._sent(lines.floats, torch.float32, lines.num_rows).T
        self._stop_ids_RK[rows] = self._sent(lines.stops, torch.int64, lines.num_rows)

    def move(self, source: int, target: int) -> None:
        for columns_CR in (self._longs_CR, self._ints_CR, self._floats_CR):
            columns_CR[:, target] = columns_CR[:, source]
        self._stop_ids_RK[target] = self._stop_ids_RK[source]

    def clear(self, row: int) -> None:
        """The row holds nobody."""
        self._longs_CR[_Long.IS_LIVE, row] = 0
        self._longs_CR[_Long.LAST_ID, row] = 0

    def read_num_certain(self, row: int) -> int:
        """Waits for the device."""
        return int(self._ints_CR[_Int.NUM_CERTAIN, row])

    def digest(self) -> Tensor:
        """A number of where every row stands, int64: another one where a token or a position differs."""
        numbers = torch.cat([self._longs_CR.flatten(), self._ints_CR.flatten()])
        odd = torch.arange(1, 2 * len(numbers), 2, device=numbers.device)
        return (numbers * odd).sum()

    def _sent(self, values: Sequence[int] | Sequence[float], dtype: torch.dtype, num_rows: int) -> Tensor:
        """A line a row, from pinned memory, so that nobody waits for the copy."""
        device, sent = self._longs_CR.device, torch.tensor(values, dtype=dtype).view(num_rows, -1)
        return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent


def _signed(seed: int) -> int:
    """The same 64 bits as torch holds them."""
    return seed - 2**64 if seed >= 2**63 else seed
