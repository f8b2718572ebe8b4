"""Inputs and calls that the lightning tables and the sweeps of tiles share. Needs one CUDA GPU."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from harness import DEVICE, graph_ms
from torch import Tensor

from forklight_kernels.lightning_attention import LightningForm, triton_gpu
from forklight_kernels.lightning_attention.triton_launch import Tiles, tiles_for
from forklight_kernels.lightning_decode import DecodeStep, LightningMemory
from forklight_kernels.lightning_decode import triton_gpu as triton_decode
from forklight_kernels.lightning_decode.triton_gpu import DecodeTiles

HEADS, SIZE, CHUNK = 64, 128, 64
BF16 = torch.bfloat16
BASE = tiles_for(BF16, SIZE)
PLAIN, SILU = LightningForm(), LightningForm(applies_silu=True)
DECODE_TARGETS_US = {1: None, 16: 22.0, 64: 76.0, 256: 290.0}
ROTATED_BYTES = 256 * 2**20
"""States that decode steps walk through: several times the L2 cache."""
Call = Callable[[], object]


def slopes(heads: int = HEADS) -> Tensor:
    """Of every (64 / heads)-th head."""
    steps = torch.arange(64 // heads, 65, 64 // heads, device=DEVICE, dtype=torch.float32)
    return 2 ** (-steps / 8) * (1 - 40 / 79 + 1e-5)


def joined(num_tokens: int, heads: int = HEADS) -> Tensor:
    generator = torch.Generator(device=DEVICE).manual_seed(0)
    return torch.randn(num_tokens, heads, 3 * SIZE, device=DEVICE, dtype=BF16, generator=generator)


def apart(x_THW: Tensor) -> list[Tensor]:
    return [part.contiguous() for part in x_THW.chunk(3, dim=-1)]


def ours(
    slopes_H: Tensor, form: LightningForm, tiles: Tiles, parts: Sequence[Tensor], sequences: int = 1
) -> Tensor:
    q, k, v = parts
    offsets = tuple(range(0, len(q) + 1, len(q) // sequences))
    return triton_gpu.lightning_attention((q, k, v), slopes_H, offsets, form, tiles)[0]


def num_rotated(batch: int) -> int:
    return max(1, min(32, ROTATED_BYTES // (batch * HEADS * SIZE * SIZE * 4)))


def new_memory(batch: int) -> LightningMemory:
    states = torch.randn(batch, HEADS, SIZE, SIZE, device=DEVICE)
    rows = torch.randn(2, batch, HEADS, CHUNK, SIZE, device=DEVICE, dtype=BF16)
    return LightningMemory(
        states_SHDD=states, rounded_SHDD=states.to(BF16), keys_SHCD=rows[0], values_SHCD=rows[1]
    )


def decode_us(batch: int, place: int | None, tiles: DecodeTiles | None = None) -> float:
    """Microseconds a step. place None: places spread over the chunk: one sequence in 64 closes it. Every
    sequence has a whole chunk behind it, and so a state to read."""
    memories = [new_memory(batch) for _ in range(num_rotated(batch))]
    q, k, v = joined(batch).chunk(3, dim=-1)
    lengths = (31 + 7 * torch.arange(batch, device=DEVICE)) % CHUNK
    if place is not None:
        lengths.fill_(place)
    step, slopes_H = DecodeStep(lengths_B=lengths + CHUNK, applies_silu=True), slopes()
    return 1e3 * graph_ms(
        [partial(triton_decode.lightning_decode, (q, k, v), slopes_H, each, step, tiles) for each in memories]
    )
