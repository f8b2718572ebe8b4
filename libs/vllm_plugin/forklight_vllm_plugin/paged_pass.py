"""How the model's blocks reach the tokens before, where vLLM keeps them: pages by number, strided.

The first rows of a step are sequences that take one token, then come pieces of prompts, then rows that only
pad a CUDA graph. Everything is our own kernels; nothing here imports vLLM.
Legend: T rows, B sequences, N pages of a sequence, S pages, H heads, G key heads, D head size, C open chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from forklight_kernels import (
    DecodeStep,
    KeyPages,
    LightningMemory,
    append_keys,
    cached_attention,
    continue_lightning,
    lightning_decode,
    softmax_attention,
)

QkvHeads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRows:
    """The sequences of one step, as the layers of one cache group see them."""

    num_decodes: int
    """Sequences with one new token, at the front; graph padding (length 0) counts."""
    num_tokens: int
    """Rows in use; what follows pads."""
    table_BN: Tensor
    """int32; pages of a sequence. A lightning layer's memory is the first one."""
    lengths_B: Tensor
    """Tokens of each sequence after this step."""
    longest: int
    """No sequence is longer after this step."""
    cu_seqlens: Tensor | None = None
    """Cuts of the prompts' rows, from 0; None without prompts."""
    seen: tuple[int, ...] = ()
    """Tokens of each prompt before this step."""


class LightningCache(Protocol):
    """A lightning layer's part of vLLM's cache."""

    @property
    def memory(self) -> LightningMemory: ...


class SoftmaxCache(Protocol):
    """A softmax layer's part of vLLM's cache: keys and values [S, G, L, D]."""

    @property
    def keys_and_values(self) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PagedPass:
    """The model's `AttentionPass` over one step."""

    positions_T: Tensor
    rows_of: Callable[[int], StepRows | None]
    """A layer's rows; None while memory is profiled and no cache exists."""
    lightning: Mapping[int, LightningCache]
    softmax: Mapping[int, SoftmaxCache]

    def mix_lightning(self, layer: int, qkv: QkvHeads, slopes_H: Tensor) -> Tensor:
        """q, k and v come before their silu."""
        rows = self.rows_of(layer)
        if rows is None:
            return torch.zeros(qkv[0].shape, dtype=qkv[0].dtype, device=qkv[0].device)
        memory = self.lightning[layer].memory
        return _mixed(
            qkv,
            rows,
            lambda part: decode_lightning(part, slopes_H, memory, rows),
            lambda part: _prefill_lightning(part, slopes_H, memory, rows),
        )

    def mix_softmax(self, layer: int, qkv: QkvHeads) -> Tensor:
        """q and k are rotated."""
        rows = self.rows_of(layer)
        if rows is None:
            return torch.zeros(qkv[0].shape, dtype=qkv[0].dtype, device=qkv[0].device)
        keys_SGLD, values_SGLD = self.softmax[layer].keys_and_values
        pages = KeyPages(keys_PGLD=keys_SGLD, values_PGLD=values_SGLD, table_BN=_used_table(rows, keys_SGLD))
        return _mixed(
            qkv,
            rows,
            lambda part: _decode_softmax(part, pages, rows),
            lambda part: self._prefill_softmax(part, pages, rows),
        )

    def _prefill_softmax(self, qkv: QkvHeads, pages: KeyPages, rows: StepRows) -> Tensor:
        q_THD, k_TGD, v_TGD = qkv
        pages, cu_seqlens = _pages_of(pages, slice(rows.num_decodes, None)), rows.cu_seqlens
        assert cu_seqlens is not None
        append_keys(
            k_TGD, v_TGD, pages, self.positions_T[rows.num_decodes : rows.num_tokens].contiguous(), cu_seqlens
        )
        if not any(rows.seen):
            return softmax_attention(q_THD, k_TGD, v_TGD, cu_seqlens)
        return cached_attention(q_THD, pages, rows.lengths_B[rows.num_decodes :], cu_seqlens)


def _mixed(
    qkv: QkvHeads,
    rows: StepRows,
    decode: Callable[[QkvHeads], Tensor],
    prefill: Callable[[QkvHeads], Tensor],
) -> Tensor:
    """Both parts' outputs in one tensor; zeros in rows that pad."""
    cut, end, num_rows = rows.num_decodes, rows.num_tokens, len(qkv[0])
    if cut == num_rows:
        return decode(qkv)
    if cut == 0 and end == num_rows:
        return prefill(qkv)
    q_THD = qkv[0]
    o_THD = torch.zeros(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
    if cut:
        o_THD[:cut] = decode(_cut(qkv, slice(0, cut)))
    if end > cut:
        o_THD[cut:end] = prefill(_cut(qkv, slice(cut, end)))
    return o_THD


def decode_lightning(qkv: QkvHeads, slopes_H: Tensor, memory: LightningMemory, rows: StepRows) -> Tensor:
    """One token a sequence, in its page; a first token (a prompt of one) reads nothing of it. Rows that pad
    have length 0, and are idle here."""
    slots_B, lengths_B = rows.table_BN[: rows.num_decodes, 0], rows.lengths_B[: rows.num_decodes] - 1
    step = DecodeStep(slots_B=slots_B, lengths_B=lengths_B, applies_silu=True)
    return lightning_decode(*qkv, slopes_H, memory, step)


def _prefill_lightning(qkv: QkvHeads, slopes_H: Tensor, memory: LightningMemory, rows: StepRows) -> Tensor:
    assert rows.cu_seqlens is not None
    slots_B = rows.table_BN[rows.num_decodes :, 0].to(torch.int64)
    return continue_lightning(qkv, slopes_H, rows.cu_seqlens, memory, slots_B, rows.seen)


def _decode_softmax(qkv: QkvHeads, pages: KeyPages, rows: StepRows) -> Tensor:
    q_BHD, k_BGD, v_BGD = qkv
    # Rows that pad have length 0: they write nowhere and read one place of page 0.
    lengths_B = rows.lengths_B[: rows.num_decodes]
    pages = _pages_of(pages, slice(0, rows.num_decodes))
    append_keys(k_BGD, v_BGD, pages, lengths_B - 1)
    return cached_attention(q_BHD, pages, lengths_B.clamp(min=1))


def _cut(qkv: QkvHeads, part: slice) -> QkvHeads:
    q_THD, k_THD, v_THD = qkv
    return q_THD[part], k_THD[part], v_THD[part]


def _pages_of(pages: KeyPages, part: slice) -> KeyPages:
    assert pages.table_BN is not None
    return KeyPages(
        keys_PGLD=pages.keys_PGLD, values_PGLD=pages.values_PGLD, table_BN=pages.table_BN[part].contiguous()
    )


def _used_table(rows: StepRows, keys_SGLD: Tensor) -> Tensor:
    """On a CPU only the pages in use, which it gathers; a GPU's kernel skips the others itself."""
    if keys_SGLD.device.type != "cpu":
        return rows.table_BN
    num_pages = -(-max(1, rows.longest) // keys_SGLD.shape[2])
    return rows.table_BN[:, :num_pages]
