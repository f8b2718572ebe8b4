"""A causal language model of transformers as a `Policy`: its layers, our fp32 head.

Legend: T packed tokens, D hidden size, V vocabulary, N sequences, L padded length, B rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_kernels import head_logits, token_stats
from forklight_model.hf.batches import lay_out, to_pack_order
from forklight_model.hf.config import HfConfig
from forklight_model.policy import Policy

if TYPE_CHECKING:
    from forklight_model.model import Recomputation
    from forklight_model.routing import Routing


class HfPolicy(Policy):
    """Its modules are transformers' own, under their own names; so are names and shapes of its parameters.

    It stays in evaluation mode: dropout or router noise in training would make it another distribution than
    the one that rollout samples from.
    """

    config: HfConfig

    def __init__(self, native: Any, config: HfConfig) -> None:  # noqa: ANN401  # transformers' types are Any
        super().__init__()
        self.config = config
        if any(True for _ in native.parameters(recurse=False)) or any(
            True for _ in native.buffers(recurse=False)
        ):
            raise ConfigError(
                f"{config.architecture} keeps tensors outside of its modules; it is not supported"
            )
        for name, child in native.named_children():
            self.add_module(name, child)
        # Not a child of its own: then every name would have a prefix that no published tensor has.
        self._native = (native,)
        self._recomputation: Recomputation | None = None
        self.logit_scale = 1.0
        """Its logits are those of the head times this."""
        self.eval()

    @property
    def native(self) -> Any:  # noqa: ANN401
        """transformers' own object; its modules are this policy's."""
        return self._native[0]

    @property
    def stack(self) -> Any:  # noqa: ANN401
        """Everything below the head."""
        native = self.native
        return native.get_decoder() if native.base_model is native else native.base_model

    @property
    def head_weight(self) -> Tensor:
        """[V, D]; the embedding's own tensor where the two are tied."""
        weight: Tensor = self.native.get_output_embeddings().weight
        return weight

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    @property
    def recomputation(self) -> Recomputation | None:
        """What the backward pass computes again; None keeps every activation."""
        return self._recomputation

    @recomputation.setter
    def recomputation(self, how: Recomputation | None) -> None:
        layers = list(self._layers())
        if how is not None and (how.keeps_experts or not layers):
            raise ConfigError(
                f"{self.config.architecture} recomputes whole layers or none (it has {len(layers)} that can "
                "be): keep no experts apart"
            )
        self._recomputation = how
        num_recomputed = 0 if how is None else len(layers) - how.num_whole_layers
        for number, layer in enumerate(layers):
            # What transformers' own switch sets, without the warning that it has been renamed.
            layer.gradient_checkpointing = number < num_recomputed  # type: ignore[assignment]
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, always; only a layer that is to be computed again says otherwise, of itself alone:
        transformers recomputes nothing else, and without dropout a layer does not look at it elsewhere."""
        super().train(False)
        for layer in self._layers():
            layer.training = bool(layer.gradient_checkpointing)
        return self

    def _layers(self) -> Iterator[nn.Module]:
        """Those that transformers can recompute."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        return (module for module in self.modules() if isinstance(module, GradientCheckpointingLayer))

    def forward_hidden(
        self, input_ids_T: Tensor, cu_seqlens: Tensor, routing: Routing | None = None
    ) -> Tensor:
        if routing is not None:
            raise InvalidInputError(
                f"{self.config.architecture} records and replays no routing, and tells no router loss: set "
                "parity.routing_replay and trainer.router_auxiliary_loss to false"
            )
        batches = lay_out(cu_seqlens.tolist(), input_ids_T.device)
        parts = [
            self.read(input_ids_T[batch.index_NL]).flatten(0, 1).index_select(0, batch.places_P)
            for batch in batches
        ]
        return to_pack_order(batches, parts)

    def read(self, ids_NL: Tensor) -> Tensor:
        """Hidden states [N, L, D] of sequences that all begin at their first token."""
        hidden_NLD: Tensor = self.stack(input_ids=ids_NL, use_cache=False).last_hidden_state
        return hidden_NLD

    def token_stats(
        self, hidden_TD: Tensor, targets_T: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        return token_stats(hidden_TD, self.head_weight, targets_T, temperature / self.logit_scale)

    def logits(self, hidden_BD: Tensor, out_BV: Tensor | None = None) -> Tensor:
        logits_BV = head_logits(hidden_BD, self.head_weight, out_BV)
        return logits_BV if self.logit_scale == 1.0 else logits_BV.mul_(self.logit_scale)

    def published_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As save_pretrained names and lays them out: tied ones once, experts one by one."""
        from transformers.core_model_loading import revert_weight_conversion

        left_out = {*getattr(self.native, "all_tied_weights_keys", ()), *self._ignored_names()}
        tensors = {name: each for name, each in self.state_dict().items() if name not in left_out}
        for name, tensor in revert_weight_conversion(self.native, tensors).items():
            yield name, tensor.contiguous()

    def _ignored_names(self) -> tuple[str, ...]:
        return tuple(self.native._keys_to_ignore_on_save or ())

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        """Cast or move; but what has a type of its own keeps it. Rotary frequencies in bf16 would turn tokens
        by wrong angles, and what transformers keeps in fp32 stays in fp32."""
        kept = list(self._own_types())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module, name, before in kept:
            after = getattr(module, name)
            restored = before.to(device=after.device)
            if isinstance(after, nn.Parameter):
                after.data = restored
            else:
                module._buffers[name] = restored
        return self

    def _own_types(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Tensors that no cast may touch, with the module that holds them and their name there."""
        patterns = [
            re.compile(pattern.replace("*", ".*"))
            for pattern in self.native._keep_in_fp32_modules_strict or ()
        ]
        for path, module in self.named_modules():
            held = {
                **dict(module.named_parameters(recurse=False)),
                **dict(module.named_buffers(recurse=False)),
            }
            for name, tensor in held.items():
                is_passing = name in module._non_persistent_buffers_set
                is_strict = any(pattern.search(f"{path}.{name}") for pattern in patterns)
                if tensor.is_floating_point() and (is_passing or is_strict):
                    yield module, name, tensor.data
