"""What trainer, scoring and publication need of a model, whichever it is: our hybrid one, or transformers'.

A policy's `state_dict()` and `named_parameters()` are its own affair; what leaves it is `published_tensors`.
Legend: T packed tokens of all sequences, D hidden size, B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from forklight_model.shard import WHOLE, Shard

if TYPE_CHECKING:
    from forklight_model.model import Recomputation
    from forklight_model.routing import Routing


class PolicyConfig(Protocol):
    """What is known of a model without its weights."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def max_position_embeddings(self) -> int:
        """Longest sequence."""
        ...

    @property
    def router_aux_loss_coef(self) -> float:
        """The checkpoint's coefficient of its load-balancing loss; 0 without experts."""
        ...

    @property
    def numerics(self) -> str:
        """What computes it, where that decides its bits: our kernels' contract, or transformers' release."""
        ...

    def to_published(self) -> dict[str, object]:
        """The mapping that config.json holds for this model."""
        ...


class Policy(nn.Module):
    """A model that gives the next token's distribution."""

    config: PolicyConfig
    shard: Shard = WHOLE
    """Which part of the model this process holds."""
    recomputation: Recomputation | None
    """What the backward pass computes again; None keeps every activation."""

    @property
    def is_whole(self) -> bool:
        """Whether this process has every number of the model."""
        return self.shard.is_whole

    def forward_hidden(
        self, input_ids_T: Tensor, cu_seqlens: Tensor, routing: Routing | None = None
    ) -> Tensor:
        """Hidden states under the head, [T, D], of sequences packed one after another. Differentiable."""
        raise NotImplementedError

    def token_stats(
        self, hidden_TD: Tensor, targets_T: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [T] of these tokens, fp32, without [T, V]. Differentiable."""
        raise NotImplementedError

    def logits(self, hidden_BD: Tensor, out_BV: Tensor | None = None) -> Tensor:
        """fp32 logits [B, V] for the sampler, without a gradient; into `out_BV` where that is given."""
        raise NotImplementedError

    def published_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under its published name, contiguous; not to be written to (some are copies)."""
        for name, tensor in self.state_dict().items():
            yield name, tensor.contiguous()

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter of this process's part, by its name in the module; shared ones once."""
        return {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}

    @property
    def num_parameters(self) -> int:
        """Trainable numbers, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
