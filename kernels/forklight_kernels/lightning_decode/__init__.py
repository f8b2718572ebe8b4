"""One decode step of lightning attention for B sequences, their memory updated in place."""

import torch
from torch import Tensor

from forklight_kernels.backend import TRITON_DTYPES, Backend, backend_for
from forklight_kernels.checks import (
    require,
    require_dims,
    require_dtype,
    require_head_size,
    require_same,
    require_shape,
)
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.lightning_decode import naive, torch_cpu
from forklight_kernels.lightning_decode.memory import continue_lightning, load_memory
from forklight_kernels.lightning_decode.types import DecodeStep, LightningMemory, open_chunk

SLOT_ALIGN_BYTES = 16


def lightning_decode(
    q_BHD: Tensor,
    k_BHD: Tensor,
    v_BHD: Tensor,
    slopes_H: Tensor,
    memory: LightningMemory,
    step: DecodeStep = DecodeStep(),  # noqa: B008  # frozen
) -> Tensor:
    """Output [B, H, D] of one more token of each sequence. On Triton fit for a CUDA graph: no host reads."""
    qkv = (q_BHD, k_BHD, v_BHD)
    if not _is_plain(qkv, slopes_H, memory, step):
        _check(qkv, slopes_H, memory, step)
    backend = backend_for(v_BHD)
    if backend is Backend.NAIVE:
        return naive.lightning_decode(qkv, slopes_H, memory, step)
    if backend is Backend.TRITON and memory.has_open_chunk and len(v_BHD) > 0:
        require_dtype("q_BHD", q_BHD, TRITON_DTYPES)
        require_head_size("q_BHD", q_BHD)
        from forklight_kernels.lightning_decode import triton_gpu

        return triton_gpu.lightning_decode(qkv, slopes_H, memory, step)
    return torch_cpu.lightning_decode(qkv, slopes_H, memory, step)


def _is_plain(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, memory: LightningMemory, step: DecodeStep
) -> bool:
    """A step of the recurrent form that is certainly right: forming the messages of _check would cost a CPU
    as much as a quarter of the step."""
    q_BHD, k_BHD, v_BHD = qkv
    if q_BHD.dim() != 3:
        return False
    batch, num_heads, head_size = shape = q_BHD.shape
    return (
        memory.rounded_SHDD is memory.keys_SHCD is memory.values_SHCD is step.slots_B is None
        and q_BHD.dtype == k_BHD.dtype == v_BHD.dtype == memory.states_SHDD.dtype
        and q_BHD.device.type == "cpu"
        and shape == k_BHD.shape == v_BHD.shape
        and slopes_H.shape == (num_heads,)
        and memory.states_SHDD.shape == (batch, num_heads, head_size, head_size)
    )


def _check(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, memory: LightningMemory, step: DecodeStep
) -> None:
    q_BHD, k_BHD, v_BHD = qkv
    require_dims("q_BHD", q_BHD, 3, "[B, H, D]")
    require_same(q_BHD=q_BHD, k_BHD=k_BHD, v_BHD=v_BHD)
    batch, num_heads, head_size = shape = tuple(q_BHD.shape)
    require_shape("k_BHD", k_BHD, shape, "q_BHD's shape")
    require_shape("v_BHD", v_BHD, shape, "q_BHD's shape")
    require_shape("slopes_H", slopes_H, (num_heads,), "q_BHD's heads")
    states_SHDD = memory.states_SHDD
    require_dims("states_SHDD", states_SHDD, 4, "[S, H, D, D]")
    num_slots = len(states_SHDD)
    require_shape("states_SHDD", states_SHDD, (num_slots, num_heads, head_size, head_size), "q_BHD's heads")
    require_dtype("states_SHDD", states_SHDD, (torch.float32, torch.float64))
    require(
        step.slots_B is not None or num_slots >= batch,
        f"the memory has {num_slots} slots for {batch} sequences",
    )
    for name, tensor in (("slots_B", step.slots_B), ("lengths_B", step.lengths_B)):
        if tensor is not None:
            require_shape(name, tensor, (batch,), "q_BHD's sequences")
            require_dtype(name, tensor, (torch.int32, torch.int64))
    if memory.has_open_chunk or memory.keys_SHCD is not None or memory.values_SHCD is not None:
        _check_open_chunk(q_BHD, memory, step)


def _check_open_chunk(q_BHD: Tensor, memory: LightningMemory, step: DecodeStep) -> None:
    chunk = open_chunk(memory)
    num_slots, num_heads, head_size, _ = chunk.states_SHDD.shape
    require(step.lengths_B is not None, "lengths_B is None; the chunk form needs each sequence's length")
    require_same(q_BHD=q_BHD, rounded_SHDD=chunk.rounded_SHDD, keys_SHCD=chunk.keys_SHCD)
    require_same(keys_SHCD=chunk.keys_SHCD, values_SHCD=chunk.values_SHCD)
    why = "states_SHDD and the chunk of 64"
    require_shape("rounded_SHDD", chunk.rounded_SHDD, tuple(chunk.states_SHDD.shape), "states_SHDD")
    require_shape("keys_SHCD", chunk.keys_SHCD, (num_slots, num_heads, MAX_CHUNK, head_size), why)
    require_shape("values_SHCD", chunk.values_SHCD, (num_slots, num_heads, MAX_CHUNK, head_size), why)
    for name, tensor in (
        ("states_SHDD", chunk.states_SHDD), ("rounded_SHDD", chunk.rounded_SHDD),
        ("keys_SHCD", chunk.keys_SHCD), ("values_SHCD", chunk.values_SHCD),
    ):  # fmt: skip
        _check_slots(name, tensor)


def _check_slots(name: str, tensor: Tensor) -> None:
    """Slots may lie apart, but the kernel reads each as one run, from where a tensor map can start."""
    _, num_heads, num_rows, size = tensor.shape
    slot, *inside = tensor.stride()
    if inside != [num_rows * size, size, 1] or slot < num_heads * num_rows * size:
        raise ValueError(
            f"{name} has strides {tensor.stride()}; steps write it in place, so each slot must be dense "
            f"inside: give it strides ({num_heads * num_rows * size} or more, {num_rows * size}, {size}, 1)"
        )
    if slot * tensor.element_size() % SLOT_ALIGN_BYTES or tensor.data_ptr() % SLOT_ALIGN_BYTES:
        raise ValueError(
            f"{name} has slots {slot * tensor.element_size()} bytes apart from {tensor.data_ptr():#x} on; "
            f"let each begin at a multiple of {SLOT_ALIGN_BYTES} bytes"
        )


__all__ = [
    "DecodeStep",
    "LightningMemory",
    "continue_lightning",
    "lightning_decode",
    "load_memory",
]
