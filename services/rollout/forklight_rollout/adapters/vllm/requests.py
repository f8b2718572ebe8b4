"""Between the port's words and vLLM's: rules to sampling parameters, outputs to tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Protocol

from forklight_core.errors import UnavailableError
from forklight_rollout.adapters.vllm.outbox import Delta
from forklight_rollout.ports import FinishReason, PromptStart, SequenceStart

EXTRA_KEY = "forklight"
"""Where the plugin looks for our rules; the names inside are its RequestArguments."""
NUM_COLUMNS = 3
"""Numbers a token from the plugin's sampler: log-prob, raw log-prob, epoch of the weights."""

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "repetition": FinishReason.REPETITION}


class Output(Protocol):
    """vLLM's RequestOutput, as far as it is used."""

    @property
    def outputs(self) -> list[Any]: ...

    @property
    def prompt_logprobs(self) -> Any: ...  # noqa: ANN401  # vLLM's FlatLogprobs


def token_ids(prompt: PromptStart, start: SequenceStart) -> list[int]:
    """What a sequence is fed before its first draw."""
    return [*prompt.prompt_ids, *start.prefix_ids]


def sampling_values(prompt: PromptStart, start: SequenceStart) -> dict[str, Any]:
    """Of vLLM's SamplingParams. Temperature, filters and seed go to the plugin's sampler instead."""
    draw, end = prompt.draw, prompt.end
    rules = {
        "temperature": draw.temperature,
        "top_p": draw.top_p,
        "top_k": draw.top_k,
        "min_p": draw.min_p,
        "seed": start.seed - 2**64 if start.seed >= 2**63 else start.seed,
        "repetition_tokens": end.repetition_tokens,
        "repetition_probability": end.repetition_probability,
        "num_certain": start.num_certain,
    }
    return {
        "max_tokens": end.max_new_tokens - len(start.prefix_ids),
        "stop_token_ids": sorted(end.stop_ids),
        "ignore_eos": True,
        "logprobs": NUM_COLUMNS - 1,
        "flat_logprobs": True,
        "detokenize": False,
        "extra_args": {EXTRA_KEY: rules},
    }


def scoring_values() -> dict[str, Any]:
    """Of vLLM's SamplingParams, for log-probs of given tokens; vLLM always draws one token as well."""
    return {"max_tokens": 1, "prompt_logprobs": 0, "flat_logprobs": True, "detokenize": False}


def read_deltas(key: int, output: Output) -> Iterator[Delta]:
    """An output's new tokens, one delta for each version of the weights that drew some."""
    completion = output.outputs[0]
    ids, columns = list(completion.token_ids), completion.logprobs
    values = list(columns.logprobs) if columns is not None else []
    reason = _reason(key, completion.finish_reason)
    rows = [tuple(values[first : first + NUM_COLUMNS]) for first in range(0, len(values), NUM_COLUMNS)]
    if len(rows) != len(ids):
        raise UnavailableError(
            f"vLLM sent {len(ids)} tokens with {len(values)} numbers for sequence {key}; {NUM_COLUMNS} a "
            "token were expected from the plugin's sampler: bring forklight-vllm-plugin to this release"
        )
    parts = [list(part) for _, part in groupby(zip(ids, rows, strict=True), key=lambda each: int(each[1][2]))]
    for number, part in enumerate(parts):
        yield Delta(
            key=key,
            epoch=int(part[0][1][2]),
            ids=tuple(token for token, _ in part),
            logprobs=tuple(row[0] for _, row in part),
            raw_logprobs=tuple(row[1] for _, row in part),
            reason=reason if number == len(parts) - 1 else None,
        )


def read_scores(output: Output) -> list[float]:
    """Log-probs of the prompt's tokens after the first."""
    scored = output.prompt_logprobs
    return [scored.logprobs[first] for first in scored.start_indices[1:]]


def _reason(key: int, given: str | None) -> FinishReason | None:
    if given is None:
        return None
    if given not in _REASONS:
        raise UnavailableError(
            f"vLLM ended sequence {key} with {given!r}, which nobody asked for: its engine stops or failed"
        )
    return _REASONS[given]
