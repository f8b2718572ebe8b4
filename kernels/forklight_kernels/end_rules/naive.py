"""The rules, row by row. Legend: B sequences, K stop ids."""

from forklight_kernels.end_rules.reasons import EndReason
from forklight_kernels.end_rules.types import EndColumns
from forklight_kernels.sampler.types import SampledTokens


def apply_end_rules(tokens: SampledTokens, columns: EndColumns) -> None:
    columns.reasons_B.zero_()
    for row in range(len(columns.is_live_B)):
        if columns.is_live_B[row] != 0:
            _add_token(tokens, columns, row)
            reason = _reason(columns, row)
            columns.reasons_B[row] = reason
            columns.is_live_B[row] = int(reason is EndReason.NONE)


def _add_token(tokens: SampledTokens, columns: EndColumns, row: int) -> None:
    is_certain = tokens.raw_logprobs_B[row] > columns.certain_logprobs_B[row]
    columns.num_certain_B[row] = columns.num_certain_B[row] + 1 if is_certain else 0
    columns.num_tokens_B[row] += 1
    columns.positions_B[row] += 1
    columns.last_ids_B[row] = tokens.ids_B[row]


def _reason(columns: EndColumns, row: int) -> EndReason:
    limit = int(columns.certain_limits_B[row])
    if int(columns.last_ids_B[row]) in columns.stop_ids_BK[row].tolist():
        return EndReason.STOP
    if limit > 0 and int(columns.num_certain_B[row]) >= limit:
        return EndReason.REPETITION
    if columns.num_tokens_B[row] >= columns.max_tokens_B[row]:
        return EndReason.LENGTH
    return EndReason.NONE
