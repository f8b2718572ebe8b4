"""The rules over whole columns, in place. Legend: B sequences, K stop ids."""

import torch

from forklight_kernels.end_rules.reasons import EndReason
from forklight_kernels.end_rules.types import EndColumns
from forklight_kernels.sampler.types import SampledTokens


def apply_end_rules(tokens: SampledTokens, columns: EndColumns) -> None:
    is_live_B = columns.is_live_B != 0
    is_certain_B = tokens.raw_logprobs_B > columns.certain_logprobs_B
    num_certain_B = torch.where(is_certain_B, columns.num_certain_B + 1, 0)
    columns.num_certain_B.copy_(torch.where(is_live_B, num_certain_B, columns.num_certain_B))
    columns.num_tokens_B.add_(is_live_B)
    columns.positions_B.add_(is_live_B)
    columns.last_ids_B.copy_(torch.where(is_live_B, tokens.ids_B, columns.last_ids_B))

    is_stop_B = (columns.stop_ids_BK == columns.last_ids_B[:, None]).any(dim=1)
    limits_B = columns.certain_limits_B
    is_repetition_B = (limits_B > 0) & (columns.num_certain_B >= limits_B)
    reasons_B = columns.reasons_B.zero_()
    reasons_B.masked_fill_(columns.num_tokens_B >= columns.max_tokens_B, int(EndReason.LENGTH))
    reasons_B.masked_fill_(is_repetition_B, int(EndReason.REPETITION))
    reasons_B.masked_fill_(is_stop_B, int(EndReason.STOP))
    reasons_B.masked_fill_(~is_live_B, int(EndReason.NONE))
    columns.is_live_B.masked_fill_(reasons_B != EndReason.NONE, 0)
