"""Generation's two steps, prefill and decode, for a transformers model over a `RowCache`.

Legend: N sequences, L padded length, B rows, C places, V vocabulary, G key heads, D size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.hf.batches import cut_by_length
from forklight_model.hf.checks import tolerance_of
from forklight_model.hf.row_cache import RowCache, layer_widths, read_layers

if TYPE_CHECKING:
    from forklight_model.hf.policy import HfPolicy

TEST_LENGTHS = (9, 4)
TEST_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefilled:
    """One sequence, fed."""

    length: int
    logits_V: Tensor
    """Of what follows its last token."""
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values of its tokens, [G, L, D] each."""


@torch.inference_mode()
def prefill(policy: HfPolicy, sequences: Sequence[Sequence[int]]) -> list[Prefilled]:
    """Feed whole sequences, those of like length together; in the order they came."""
    done: dict[int, Prefilled] = {}
    for members in cut_by_length([len(each) for each in sequences]):
        fed = _prefill_batch(policy, [sequences[number] for number in members])
        done.update(zip(members, fed, strict=True))
    return [done[number] for number in range(len(sequences))]


@torch.inference_mode()
def decode(policy: HfPolicy, cache: RowCache, ids_B: Tensor) -> Tensor:
    """Feed every row in use one token; fp32 logits [B, V] for the next."""
    if len(ids_B) != cache.num_used:
        raise InvalidInputError(f"decode got {len(ids_B)} tokens for {cache.num_used} rows")
    cache.open_place()
    lengths = cache.lengths
    positions_B1 = torch.tensor(lengths, device=cache.device)[:, None]
    arguments: dict[str, object] = {"attention_mask": _mask(cache)}
    if "position_ids" in _parameters(policy):
        arguments["position_ids"] = positions_B1
    hidden_B1D = policy.stack(
        input_ids=ids_B[:, None], past_key_values=_as_native(cache), use_cache=True, **arguments
    ).last_hidden_state
    cache.clock += 1
    return policy.logits(hidden_B1D[:, -1])


class HfDecoding:
    """One sequence; see `decoding.Decoding`."""

    def __init__(self, policy: HfPolicy, max_tokens: int) -> None:
        self._policy, self._cache = policy, open_rows(policy, 1, max_tokens)

    def begin(self, prompt_ids: Sequence[int]) -> Tensor:
        (fed,) = prefill(self._policy, [prompt_ids])
        self._cache.join(fed.layers, fed.length, 1)
        return fed.logits_V[None]

    def feed(self, ids_B: Tensor) -> Tensor:
        return decode(self._policy, self._cache, ids_B)


def open_rows(policy: HfPolicy, num_rows: int, max_tokens: int) -> RowCache:
    """An empty cache for this model."""
    weight = policy.head_weight
    return RowCache(
        widths=layer_widths(policy),
        num_rows=num_rows,
        max_tokens=max_tokens,
        dtype=weight.dtype,
        device=weight.device,
    )


@torch.inference_mode()
def check_generation(policy: HfPolicy) -> None:
    """Two sequences of unlike length, decoded together, against one pass each; ConfigError if they differ."""
    size = policy.config.vocab_size
    longest = max(TEST_LENGTHS) + TEST_STEPS
    if longest > policy.config.max_position_embeddings:
        return
    whole = [
        [(7 + 5 * row + 11 * place) % size for place in range(longest)] for row in range(len(TEST_LENGTHS))
    ]
    cache = open_rows(policy, len(TEST_LENGTHS), longest)
    for row, fed in enumerate(prefill(policy, [ids[:n] for ids, n in zip(whole, TEST_LENGTHS, strict=True)])):
        cache.join(fed.layers, fed.length, 1)
        _compare(policy, fed.logits_V, whole[row][: TEST_LENGTHS[row]])
    for step in range(TEST_STEPS):
        ids_B = [ids[n + step] for ids, n in zip(whole, TEST_LENGTHS, strict=True)]
        logits_BV = decode(policy, cache, torch.tensor(ids_B, device=policy.device))
        for row, length in enumerate(TEST_LENGTHS):
            _compare(policy, logits_BV[row], whole[row][: length + step + 1])


def _compare(policy: HfPolicy, logits_V: Tensor, ids: Sequence[int]) -> None:
    ids_1L = torch.tensor([list(ids)], device=policy.device)
    expected_V = policy.logits(policy.read(ids_1L)[:, -1])[0]
    off = float((logits_V - expected_V).abs().max())
    if not off <= 3 * tolerance_of(policy) * max(1.0, float(expected_V.abs().max())):
        raise ConfigError(
            f"{policy.config.architecture} says something else token by token than in one pass (logits are "
            f'off by {off:.3g}), so this engine cannot generate with it: set rollout.engine = "vllm"'
        )


def _prefill_batch(policy: HfPolicy, sequences: Sequence[Sequence[int]]) -> list[Prefilled]:
    """Padded on the right: a causal model's real tokens do not see what follows them."""
    from transformers import DynamicCache

    longest = len(sequences[0])
    padded = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in sequences]
    ids_NL = torch.tensor(padded, device=policy.device)
    filled = DynamicCache()
    hidden_NLD = policy.stack(input_ids=ids_NL, past_key_values=filled, use_cache=True).last_hidden_state
    last_N = torch.tensor([len(ids) - 1 for ids in sequences], device=policy.device)
    logits_NV = policy.logits(hidden_NLD[torch.arange(len(sequences), device=policy.device), last_N])
    layers = read_layers(filled)
    return [
        Prefilled(
            length=len(ids),
            logits_V=logits_NV[row],
            layers=[(keys[row, :, : len(ids)], values[row, :, : len(ids)]) for keys, values in layers],
        )
        for row, ids in enumerate(sequences)
    ]


def _mask(cache: RowCache) -> Tensor | None:
    """Which places are a row's own; None where all of them are, which lets torch take a faster way."""
    low = cache.first_place
    if all(start == low for start in cache.starts):
        return None
    starts_B1 = torch.tensor(cache.starts, device=cache.device)[:, None]
    place_C = torch.arange(low, cache.clock + 1, device=cache.device)
    return (place_C >= starts_B1).to(torch.int64)


def _parameters(policy: HfPolicy) -> frozenset[str]:
    return frozenset(signature(policy.stack.forward).parameters)


def _as_native(cache: RowCache) -> Any:  # noqa: ANN401  # transformers' types are Any
    """The rows as transformers' own kind of cache."""
    from forklight_model.hf.native_cache import NativeRows

    return NativeRows(cache)
