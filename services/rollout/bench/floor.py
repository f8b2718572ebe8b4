"""The fewest bytes that a decode step moves, and the time that this GPU's own copy takes for as many.

Legend: L layers, T tokens, K experts a token.
"""

# ruff: noqa: INP001
from __future__ import annotations

from dataclasses import dataclass

import paths  # noqa: F401
import torch
from harness import copy_bytes_per_s

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import advance
from forklight_model.model import HybridModel
from forklight_model.routing import Routing
from forklight_rollout.adapters.native import NativeEngine

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBytes:
    """Of one step of all running rows."""

    weights: (
        float  # read once: everything but the experts that no token chose and other rows of the embedding
    )
    states: float  # of lightning layers: rounded state, open chunk, and 1/64 of closing one
    keys: float  # of softmax layers, all places so far
    logits: float  # written once, read once

    @property
    def total(self) -> float:
        return self.weights + self.states + self.keys + self.logits

    def __str__(self) -> str:
        parts = ("weights", "states", "keys", "logits")
        return ", ".join(f"{part} {getattr(self, part) / 2**30:.2f}" for part in parts) + " GiB"


def count_step_bytes(engine: NativeEngine) -> StepBytes:
    """For the rows that run now, at the average place of an open chunk. Feeds them a token: measure first."""
    model, rows = engine._runner.model, engine._rows.running
    config, item = model.config, model.lm_head.weight.element_size()
    per_head = config.head_dim * config.head_dim
    # q is one row. Half a chunk of keys and values is read, a row of each written; once in 64 steps the state
    # is read and written, and written rounded.
    chunk = (MAX_CHUNK / 2 + 1) * 2 * config.head_dim * item
    closing = per_head * (2 * FLOAT32_BYTES + item) / MAX_CHUNK
    heads = len(config.lightning_layers) * config.num_attention_heads * len(rows)
    place = len(config.softmax_layers) * 2 * config.num_key_value_heads * config.head_dim * item
    return StepBytes(
        weights=_weight_bytes(model, len(rows), touched_share(engine)),
        states=heads * (per_head * item + chunk + closing),
        keys=place * sum(row.length for row in rows),
        logits=2 * len(rows) * config.vocab_size * FLOAT32_BYTES,
    )


def floor_ms(step: StepBytes) -> float | None:
    """None without a GPU."""
    return 1e3 * step.total / copy_bytes_per_s() if torch.cuda.is_available() else None


@torch.inference_mode()
def touched_share(engine: NativeEngine) -> float:
    """The share of all experts that the rows choose, as a step shows that is run for this only."""
    runner, routing, num_rows = engine._runner, Routing(), len(engine._rows)
    columns, rows = runner.columns, slice(0, num_rows)
    step = DecodePass.over(runner.cache, num_rows, columns.is_live_R[rows])
    advance(engine._runner.model, step, columns.last_ids_R[rows], routing)
    runner.cache.lengths_S[rows].sub_(columns.is_live_R[rows])
    chosen = [len(experts_TK.unique()) for experts_TK in routing.experts_LTK]
    return sum(chosen) / (len(chosen) * engine._runner.model.config.num_local_experts)


def _weight_bytes(model: HybridModel, num_rows: int, share: float) -> float:
    total = 0.0
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            total += num_rows * weight.shape[1] * weight.element_size()
        else:
            total += weight.nbytes * (share if ".experts." in name else 1.0)
    return total
