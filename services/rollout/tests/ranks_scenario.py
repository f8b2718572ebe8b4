"""What an engine over several processes is held to: a play of everything that moves rows and pages about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_rollout.adapters.native import NativeEngine, NativeOptions, native_engine_factory
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules, Engine, PromptStart, SequenceStart, StepTokens
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.conftest import publish_model
from services.rollout.tests.versions import verify

MOST_STEPS = 400
PLAIN = DrawRules(temperature=1.0)
CONFIG = ModelConfig(
    vocab_size=104,
    hidden_size=32,
    intermediate_size=64,  # parts that fill vector registers: silu of a rest may be another function
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rotary_dim=8,
    num_local_experts=3,
    num_experts_per_tok=2,
    attn_type_list=(0, 1),
    max_position_embeddings=2048,
    initializer_range=0.2,
)
PROMPT = tuple(7 + index * 13 % 90 for index in range(250))
TIGHT_BYTES = 550_000
"""Four sequences have slots, but not all of their pages once they are past 256 tokens."""


@dataclass(slots=True, kw_only=True)
class Played:
    """What came, by sequence."""

    ids: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[float]] = field(default_factory=dict)
    raw_logprobs: dict[int, list[float]] = field(default_factory=dict)
    versions: dict[int, list[int]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    scores: list[list[float]] = field(default_factory=list)

    def take(self, tokens: StepTokens) -> None:
        columns = (tokens.keys, tokens.ids, tokens.logprobs, tokens.raw_logprobs, tokens.reasons)
        for key, token, logprob, raw_logprob, reason in zip(*columns, strict=True):
            self.ids.setdefault(key, []).append(token)
            self.logprobs.setdefault(key, []).append(logprob)
            self.raw_logprobs.setdefault(key, []).append(raw_logprob)
            self.versions.setdefault(key, []).append(tokens.version)
            self.ended |= {key} if reason is not None else set()


def make_engine(weights: PublishedWeights, num_gpus: int, **options: object) -> NativeEngine:
    """Planned alike: a part of a cache takes its part of the bytes."""
    wish = MemoryWish(
        max_batch=4, max_prompt_tokens=280, max_new_tokens=64, budget_bytes=TIGHT_BYTES // num_gpus
    )
    values = {"dtype": "float32", "device": "cpu", "threads": 1, "gpus_deadline_s": 30.0} | options
    engine = native_engine_factory(wish, NativeOptions(num_gpus=num_gpus, **values))(weights)  # type: ignore[arg-type]
    assert isinstance(engine, NativeEngine)
    return engine


def publish(root: Path, config: ModelConfig, version: int) -> PublishedWeights:
    """Random weights, as a trainer publishes them."""
    model = HybridModel(config, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(version))
    with torch.no_grad():
        model.model.norm.weight.normal_(1.0, 0.1, generator=torch.Generator().manual_seed(version))
    return publish_as(root, model, version)


def publish_as(root: Path, model: HybridModel, version: int) -> PublishedWeights:
    """These weights."""
    return verify(publish_model(root, model.requires_grad_(False), version))


def play(engine: Engine, new: PublishedWeights, prompt: Sequence[int]) -> Played:
    """Groups that fork, one that filters, more sequences than places, a turn that goes on, sequences taken
    out, and new weights in the middle."""
    played, short = Played(), tuple(prompt[:37])
    _admit(engine, 1, tuple(prompt), [11, 12, 13, 14], max_new_tokens=25)
    _admit(engine, 2, short, [21, 22], draw=DrawRules(temperature=0.8, top_p=0.9, top_k=20))
    _admit(engine, 3, short[:1], [31], max_new_tokens=6, is_turn=True)
    _step(engine, played, lambda: len(played.ids.get(11, ())) >= 12)
    engine.retire([12])
    _step(engine, played, lambda: 31 in played.ended)
    rest = (*played.ids[31], 3, 4, 5)
    _admit(engine, 4, short[:1], [32], prefix_ids=rest, max_new_tokens=30)
    _admit(engine, 5, (*prompt, *short[:20]), [51, 52, 53, 54, 55, 56], max_new_tokens=10)
    engine.retire([55])
    _step(engine, played, lambda: len(played.ids.get(51, ())) >= 3)
    played.scores.append(list(engine.score(prompt[:70])))
    engine.stage(new)
    engine.swap()
    played.scores.append(list(engine.score(prompt[:70])))
    others = {11, 13, 14, 21, 22, 31, 32, 51, 52, 53, 54, 56}
    _step(engine, played, lambda: others <= played.ended)
    return played


def _admit(
    engine: Engine,
    group: int,
    prompt_ids: tuple[int, ...],
    keys: list[int],
    *,
    draw: DrawRules = PLAIN,
    **rest: object,
) -> None:
    end = EndRules(max_new_tokens=rest.pop("max_new_tokens", 12))  # type: ignore[arg-type]
    starts = tuple(SequenceStart(key=key, seed=2**64 - key, **rest) for key in keys)  # type: ignore[arg-type]
    engine.admit(PromptStart(group=group, prompt_ids=prompt_ids, draw=draw, end=end, sequences=starts))


def _step(engine: Engine, played: Played, is_done: Callable[[], bool]) -> None:
    for _ in range(MOST_STEPS):
        if is_done():
            return
        played.take(engine.step())
    raise AssertionError(f"not done in {MOST_STEPS} steps: {played.ids}")
