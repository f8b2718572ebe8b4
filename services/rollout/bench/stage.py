"""Models with random weights, engines over them, and batches that have come to some length already.

Legend: B rows, S slots.
"""

# ruff: noqa: INP001
from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import paths  # noqa: F401
import torch
from options import Options

from forklight_core.errors import ConfigError
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_rollout.adapters.native import NativeEngine, NativeOptions
from forklight_rollout.adapters.native.factory import plan_engine
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import GroupWork, SampleStart
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules, PromptStart

PLAIN = DrawRules(temperature=1.0)
OWN_PROMPT_TOKENS = 131_072
"""So many tokens are prefilled for a batch; beyond them sequences begin with copies of others' contexts."""
SLACK_TOKENS = 512
"""What the first sequences of a batch may draw while the last prompts are prefilled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What an engine has to hold."""

    batch: int
    prompt_tokens: int
    new_tokens: int


def make_model(
    options: Options, *, seed: int = 0, size: str | None = None, positions: int = 0
) -> HybridModel:
    """Drawn on the device: three billion numbers take a CPU minutes."""
    config = SIZES[size or options.size]
    if positions > config.max_position_embeddings:
        config = replace(config, max_position_embeddings=positions)
    with torch.device(options.device):
        model = HybridModel(config, is_initialized=False)
    model.requires_grad_(False)
    if options.device == "cuda":
        model.to(torch.bfloat16)
    model.initialize(torch.Generator(options.device).manual_seed(seed))
    return model


def make_engine(model: HybridModel, options: Options, extent: Extent) -> tuple[NativeEngine, str]:
    """Planned as a pod plans it; and the plan in words."""
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    manner = NativeOptions(dtype=dtype, device=options.device)
    default_bytes = 2**28 if options.device == "cpu" else 0
    wish = MemoryWish(
        max_batch=extent.batch,
        max_prompt_tokens=extent.prompt_tokens,
        max_new_tokens=extent.new_tokens,
        budget_bytes=int(options.budget_gib * 2**30) or default_bytes,
    )
    free_memory()
    plan = plan_engine(wish, manner, model, options.device)
    if plan.max_tokens < extent.prompt_tokens + extent.new_tokens:
        raise ConfigError(
            f"{extent.prompt_tokens + extent.new_tokens:,} tokens a sequence are asked for and the model has "
            f"{model.config.max_position_embeddings:,} positions: ask for shorter contexts"
        )
    words = ", ".join(f"{name} {value:,}" for name, value in (asdict(plan) | plan.lengths_that_fit()).items())
    return NativeEngine(model, plan, manner, version=0), words


def free_memory() -> None:
    """What nobody names any more goes back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def random_prompt(vocab_size: int, length: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(vocab_size, size=length).tolist())


def make_work(
    prompt_ids: tuple[int, ...], number: int, samples: Sequence[int], new_tokens: int, draw: DrawRules = PLAIN
) -> GroupWork:
    """Samples with these seeds, which run to so many tokens."""
    group_id = f"bench/g{number:08d}"
    return GroupWork(
        group_id=group_id,
        prompt_ids=prompt_ids,
        draw=draw,
        end=EndRules(max_new_tokens=new_tokens, repetition_tokens=3000),
        samples=tuple(SampleStart(sample_id=f"{group_id}/s{seed:03d}", seed=seed) for seed in samples),
    )


def end_by_seed(engine: NativeEngine, lengths: Mapping[int, int]) -> None:
    """From now on each sequence ends after its seed's length: those of one group differ, as real ones do."""
    admit = engine.admit

    def admit_each(prompt: PromptStart) -> None:
        for sequence in prompt.sequences:
            end = replace(prompt.end, max_new_tokens=lengths[sequence.seed])
            admit(replace(prompt, end=end, sequences=(sequence,)))

    engine.admit = admit_each  # type: ignore[method-assign]


def fill(generator: Generator, batch: int, context: int, new_tokens: int, draw: DrawRules = PLAIN) -> None:
    """Bring so many sequences to a context, each with pages and states of its own, and wait for them."""
    engine = generator.engine
    assert isinstance(engine, NativeEngine)
    if engine.limits.num_sequences < batch:
        raise RuntimeError(
            f"this memory holds {engine.limits.num_sequences} sequences, {batch} are asked for"
        )
    num_prompts = min(batch, max(1, OWN_PROMPT_TOKENS // context))
    shares = np.array_split(np.arange(batch), num_prompts)
    for number, seeds in enumerate(shares):
        prompt_ids = random_prompt(engine.limits.vocabulary_size, context, seed=number)
        generator.add(make_work(prompt_ids, number, seeds.tolist(), new_tokens, draw))
    while len(engine._rows) < batch:
        generator.step()
        if engine.num_preempted:
            raise RuntimeError(f"{batch} sequences of {context} tokens do not fit into this memory together")
    unshare(engine)


@torch.inference_mode()
def unshare(engine: NativeEngine) -> None:
    """A page of its own for everything a row reads: shared ones would come from the L2 cache."""
    rows, pool, cache = engine._rows, engine._pool, engine._runner.cache
    for place, row in enumerate(rows.running):
        columns = [column for column, page in enumerate(row.pages) if pool._owners[page] > 1]
        if not columns:
            continue
        if not engine._feeds.reclaim(len(columns)):
            raise RuntimeError(f"no {len(columns)} pages are free: sequences cannot have pages of their own")
        shared, own = [row.pages[column] for column in columns], pool.take(len(columns))
        cache.copy_pages(shared, own)
        cache.write_table([place] * len(columns), columns, own)
        pool.give_back(shared)
        for column, page in zip(columns, own, strict=True):
            row.pages[column] = page


def clear(generator: Generator) -> None:
    """Stop everything that runs, and forget the prompts."""
    engine = generator.engine
    assert isinstance(engine, NativeEngine)
    generator.cancel([running.start.sample_id for running in generator._running.values()])
    generator.step()
    engine._feeds.invalidate()


def put_staged(engine: NativeEngine, model: HybridModel, version: int) -> None:
    """What `stage` leaves behind, without files."""
    staged = engine._runner.staged
    staged._candidate = (model, version)
    staged.keep()
