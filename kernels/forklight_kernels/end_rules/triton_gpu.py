"""The rules on a GPU: one launch, a block of rows a program. Legend: B sequences, K stop ids."""

import triton
import triton.language as tl

from forklight_kernels.end_rules.reasons import EndReason
from forklight_kernels.end_rules.types import EndColumns
from forklight_kernels.launch import early_start
from forklight_kernels.sampler.types import SampledTokens
from forklight_kernels.triton_order import follow

ROWS = 64
NUM_WARPS = 2
STOP = tl.constexpr(EndReason.STOP.value)
REPETITION = tl.constexpr(EndReason.REPETITION.value)
LENGTH = tl.constexpr(EndReason.LENGTH.value)
COLUMNS = (
    "TOKEN_IDS", "RAW_LOGPROBS", "IS_LIVE", "NUM_TOKENS", "MAX_TOKENS", "NUM_CERTAIN", "CERTAIN_LIMITS",
    "CERTAIN_LOGPROBS", "STOP_IDS", "REASONS", "LAST_IDS", "POSITIONS",
)  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"], do_not_specialize_on_alignment=COLUMNS)
def end_rules_kernel(
    TOKEN_IDS,
    RAW_LOGPROBS,
    IS_LIVE,
    NUM_TOKENS,
    MAX_TOKENS,
    NUM_CERTAIN,
    CERTAIN_LIMITS,
    CERTAIN_LOGPROBS,
    STOP_IDS,
    REASONS,
    LAST_IDS,
    POSITIONS,
    num_rows,
    NUM_STOPS: tl.constexpr,
    ROWS: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    is_live = is_row & (tl.load(IS_LIVE + row, mask=is_row, other=0) != 0)
    token = tl.load(TOKEN_IDS + row, mask=is_live, other=-1)
    is_certain = tl.load(RAW_LOGPROBS + row, mask=is_live, other=0.0) > tl.load(
        CERTAIN_LOGPROBS + row, mask=is_live, other=0.0
    )
    num_certain = tl.load(NUM_CERTAIN + row, mask=is_live, other=0)
    num_certain = tl.where(is_certain, num_certain + 1, 0)
    num_tokens = tl.load(NUM_TOKENS + row, mask=is_live, other=0) + 1

    limit = tl.load(CERTAIN_LIMITS + row, mask=is_live, other=0)
    reason = tl.where(num_tokens >= tl.load(MAX_TOKENS + row, mask=is_live, other=0), LENGTH, 0)
    reason = tl.where((limit > 0) & (num_certain >= limit), REPETITION, reason)
    for number in range(NUM_STOPS):
        stop = tl.load(STOP_IDS + row.to(tl.int64) * NUM_STOPS + number, mask=is_live, other=-1)
        reason = tl.where(stop == token, STOP, reason)
    reason = tl.where(is_live, reason, 0)

    tl.store(REASONS + row, reason.to(tl.uint8), mask=is_row)
    tl.store(IS_LIVE + row, (reason == 0).to(tl.int64), mask=is_live)
    tl.store(NUM_CERTAIN + row, num_certain, mask=is_live)
    tl.store(NUM_TOKENS + row, num_tokens, mask=is_live)
    tl.store(LAST_IDS + row, token, mask=is_live)
    tl.store(POSITIONS + row, tl.load(POSITIONS + row, mask=is_live, other=0) + 1, mask=is_live)


def apply_end_rules(tokens: SampledTokens, columns: EndColumns) -> None:
    num_rows = len(columns.is_live_B)
    end_rules_kernel[(triton.cdiv(num_rows, ROWS),)](
        tokens.ids_B,
        tokens.raw_logprobs_B,
        columns.is_live_B,
        columns.num_tokens_B,
        columns.max_tokens_B,
        columns.num_certain_B,
        columns.certain_limits_B,
        columns.certain_logprobs_B,
        columns.stop_ids_BK,
        columns.reasons_B,
        columns.last_ids_B,
        columns.positions_B,
        num_rows,
        NUM_STOPS=columns.stop_ids_BK.shape[1],
        ROWS=ROWS,
        num_warps=NUM_WARPS,
        **early_start(columns.is_live_B),
    )
