"""What a decode step needs to know of each row, on the device: one tensor a type, one line of it a column.

Legend: R rows, M rows just added, B rows of a step, K stop ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    def write(self, first: int, added: Sequence[Row]) -> None:
        """Rows from `first` on are these sequences, about to draw."""
        rows = slice(first, first + len(added))
        longs = [
            [1, 0, row.position, _signed(row.seed), len(row.ids), row.end.max_new_tokens] for row in added
        ]
        ints = [[row.draw.top_k, row.num_certain, row.end.repetition_tokens] for row in added]
        floats = [
            [row.draw.temperature, row.draw.top_p, row.draw.min_p, math.log(row.end.repetition_probability)]
            if row.end.repetition_tokens
            else [row.draw.temperature, row.draw.top_p, row.draw.min_p, 0.0]
            for row in added
        ]
        stops = [[*sorted(row.end.stop_ids), *[NO_STOP_ID] * MOST_STOP_IDS][:MOST_STOP_IDS] for row in added]
        self._longs_CR[:, rows] = self._sent(longs, torch.int64).T
        self._ints_CR[:, rows] = self._sent(ints, torch.int32).T
        self._floats_CR[:, rows] = self._sent(floats, torch.float32).T
        self._stop_ids_RK[rows] = self._sent(stops, torch.int64)

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

    def _sent(self, values: list[list[int]] | list[list[float]], dtype: torch.dtype) -> Tensor:
        """From pinned memory, so that nobody waits for the copy."""
        device, sent = self._longs_CR.device, torch.tensor(values, dtype=dtype)
        return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent


def _signed(seed: int) -> int:
    """The same 64 bits as torch holds them."""
    return seed - 2**64 if seed >= 2**63 else seed
