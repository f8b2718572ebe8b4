"""Rows that join, leave and move, decoded together, say what one pass over each sequence says."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.hf import row_cache
from forklight_model.hf.generation import check_generation, decode, open_rows, prefill
from forklight_model.hf.loading import fresh_hf_policy
from forklight_model.hf.row_cache import layer_widths, row_bytes
from libs.model.tests.hf.tiny import KINDS, SHARED, tiny_policy


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_rows_that_come_and_go_say_what_one_pass_says(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few places that the cache grows and moves to the front again and again."""
    monkeypatch.setattr(row_cache, "FIRST_PLACES", 8)
    monkeypatch.setattr(row_cache, "SLACK_PLACES", 5)
    policy = tiny_policy(kind)
    chance = random.Random(0)
    cache = open_rows(policy, num_rows=4, max_tokens=40)
    rows: list[list[int]] = []
    clocks = []
    for _ in range(50):
        if len(rows) < 4 and chance.random() < 0.4:
            prompts = [[chance.randrange(264) for _ in range(chance.randrange(1, 25))]]
            for ids, fed in zip(prompts, prefill(policy, prompts), strict=True):
                assert cache.join(fed.layers, fed.length, 1) == len(rows)
                rows.append(ids)
        for place in [place for place, ids in enumerate(rows) if len(ids) == 40 or chance.random() < 0.05][
            ::-1
        ]:
            cache.leave(place)
            rows[place] = rows[-1]
            rows.pop()
        if not rows:
            continue
        new = [chance.randrange(264) for _ in rows]
        logits_BV = decode(policy, cache, torch.tensor(new))
        for ids, token, logits_V in zip(rows, new, logits_BV, strict=True):
            ids.append(token)
            with torch.no_grad():
                expected_V = policy.logits(policy.read(torch.tensor([ids]))[0, -1:])[0]
            torch.testing.assert_close(logits_V, expected_V, rtol=0, atol=5e-4)
        clocks.append(cache.clock)
    assert any(later < earlier for earlier, later in pairwise(clocks))
    assert cache.num_places == 45


def test_prompts_prefilled_together_are_those_prefilled_alone() -> None:
    policy = tiny_policy()
    prompts = [[1, 2, 3], list(range(40, 70)), [9], list(range(100, 126))]
    for ids, fed in zip(prompts, prefill(policy, prompts), strict=True):
        (alone,) = prefill(policy, [ids])
        assert fed.length == len(ids)
        torch.testing.assert_close(fed.logits_V, alone.logits_V, rtol=0, atol=1e-4)
        for one, other in zip(fed.layers, alone.layers, strict=True):
            assert one[0].shape == (2, len(ids), 8)
            torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-5)


def test_an_architecture_that_remembers_otherwise_is_sent_to_vllm() -> None:
    config = {
        **SHARED,
        "architectures": ["MiniMaxForCausalLM"],
        "model_type": "minimax",
        "num_local_experts": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
    }
    with pytest.raises(ConfigError, match='LinearAttentionLayer.*rollout.engine = "vllm"'):
        check_generation(fresh_hf_policy(config, 0))


def test_a_cache_of_the_wrong_number_of_tokens_is_refused() -> None:
    policy = tiny_policy()
    cache = open_rows(policy, num_rows=2, max_tokens=20)
    with pytest.raises(InvalidInputError, match="1 tokens for 0 rows"):
        decode(policy, cache, torch.tensor([1]))
    per_token = sum(width.num_values for width in layer_widths(policy))
    assert per_token == 2 * 2 * 2 * 8
    assert row_bytes(layer_widths(policy), 20, torch.bfloat16) == 2 * per_token * (
        20 + row_cache.SLACK_PLACES
    )
