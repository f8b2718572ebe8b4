"""Sequence parallelism: how the attention layers of a slice of tokens reach the rest of their sequences.

All that is computed token by token needs the slice alone; only mixing needs the whole pack.
Legend: n processes, S own tokens, T = n S tokens, H heads, h own heads, P head size.
"""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from forklight_core.errors import ConfigError
from forklight_kernels import LightningForm, lightning_attention, softmax_attention
from forklight_model.attention_pass import packed_positions
from forklight_model.config import ModelConfig
from forklight_model.spread.exchange import Heads, lightning_to_heads, softmax_to_heads, to_tokens
from forklight_model.spread.pack_slice import PackSlice
from forklight_model.spread.peers import Peers
from forklight_model.spread.states import Borders, mix_with_states


class LightningSpread(StrEnum):
    """What lightning layers hand each other."""

    HEADS = "heads"
    """All tokens of some heads: the bits of a single process."""
    STATES = "states"
    """The state at each slice's end: fewer bytes, any number of processes, other roundings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencePass:
    """An `AttentionPass` over this process's slice of a pack: training and scoring."""

    peers: Peers
    cu_seqlens: Tensor
    """Of the padded pack."""
    positions_T: Tensor
    """Of own tokens."""
    borders: Borders | None
    """Set where lightning layers pass states."""

    @classmethod
    def over(
        cls, part: PackSlice, peers: Peers, lightning: LightningSpread = LightningSpread.HEADS
    ) -> "SequencePass":
        """One for every forward pass; all layers share it."""
        own = slice(part.start, part.start + len(part.input_ids_S))
        passes_states = lightning is LightningSpread.STATES
        return cls(
            peers=peers,
            cu_seqlens=part.cu_seqlens,
            positions_T=packed_positions(part.cu_seqlens)[own],
            borders=Borders.of(part) if passes_states else None,
        )

    def mix_lightning(self, layer: int, qkv: Heads, slopes_H: Tensor) -> Tensor:
        if self.borders is not None:
            return mix_with_states(qkv, slopes_H, self.borders, self.peers)
        own_h = slopes_H[self.peers.shard.part(len(slopes_H), "num_attention_heads")]
        whole = lightning_to_heads(qkv, self.peers)
        o_ThP, _ = lightning_attention(*whole, own_h, self.cu_seqlens, LightningForm(applies_silu=True))
        return to_tokens(o_ThP, self.peers)

    def mix_softmax(self, layer: int, qkv: Heads) -> Tensor:
        whole = softmax_to_heads(qkv, self.peers)
        return to_tokens(softmax_attention(*whole, self.cu_seqlens), self.peers)


def check_sequence_spread(
    config: ModelConfig, size: int, lightning: LightningSpread = LightningSpread.HEADS
) -> None:
    """ConfigError where the heads of a layer cannot be shared by this many processes."""
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    needs_heads = bool(config.softmax_layers) or lightning is LightningSpread.HEADS
    if needs_heads and heads % size:
        raise ConfigError(
            f"num_attention_heads = {heads} cannot be shared by {size} processes: use a number that divides "
            "it (only a model without softmax attention can pass states instead)"
        )
    if config.softmax_layers and key_heads % size and size % key_heads:
        raise ConfigError(
            f"num_key_value_heads = {key_heads} and {size} processes: one must be a multiple of the other"
        )
