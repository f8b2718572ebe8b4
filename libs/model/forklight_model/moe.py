"""The mixture-of-experts block: its router and its stacked experts.

Experts are stored stacked, so that one matrix multiplication or one grouped kernel reaches all of them; the
state dict shows them under the published names, bit for bit. In generation a process of several holds every
expert, but only some rows of w1 and w3 and some of w2's outputs; in training it may hold some experts whole.
Legend: T tokens, D hidden size, E experts, K chosen a token, I expert width, F = 2 I.
"""

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from forklight_kernels import ExpertPart, Residual, moe_experts_part, moe_router
from forklight_model.attention import Weight
from forklight_model.config import ModelConfig
from forklight_model.parallel import ALONE, Gather
from forklight_model.routing import Routing
from forklight_model.shard import WHOLE, Shard
from forklight_model.spread.experts import LOCAL_EXPERTS, ExpertPlaces

EXPERT = re.compile(r"(.+\.experts)\.\d+\.(w[123])\.weight")


def parameter_of(name: str) -> str:
    """The parameter that a published tensor is a view of: its own name, or an experts' stack."""
    found = EXPERT.fullmatch(name)
    return name if found is None else f"{found[1]}.{'w2_EID' if found[2] == 'w2' else 'w13_EFD'}"


class StackedExperts(nn.Module):
    """SwiGLU experts as two stacks, under the state-dict names `<expert>.w1|w2|w3.weight`.

    `shard` is a part of every expert, `own` says which experts there are; numbers are those of all experts.
    """

    def __init__(self, config: ModelConfig, shard: Shard = WHOLE, own: Shard = WHOLE) -> None:
        super().__init__()
        numbers = own.part(config.num_local_experts, "num_local_experts")
        self.first, num_experts = numbers.start, numbers.stop - numbers.start
        width, inner = config.hidden_size, config.intermediate_size
        own_inner, own_width = shard.num(inner, "intermediate_size"), shard.num(width, "hidden_size")
        self.w13_EFD = nn.Parameter(torch.empty(num_experts, 2 * own_inner, width))
        self.w2_EID = nn.Parameter(torch.empty(num_experts, inner, own_width))

    def published_views(self) -> dict[str, Tensor]:
        """Each published matrix as a view into the stacks."""
        inner = self.w13_EFD.shape[1] // 2
        views: dict[str, Tensor] = {}
        for expert, (w13_FD, w2_ID) in enumerate(
            zip(self.w13_EFD.unbind(), self.w2_EID.unbind(), strict=True), start=self.first
        ):
            views[f"{expert}.w1.weight"] = w13_FD[:inner]
            views[f"{expert}.w2.weight"] = w2_ID.t()
            views[f"{expert}.w3.weight"] = w13_FD[inner:]
        return views

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        for name, view in self.published_views().items():
            destination[prefix + name] = view if keep_vars else view.detach()

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object) -> None:
        # torch passes (local metadata, strict, missing keys, unexpected keys, error messages) after these.
        missing_keys, unexpected_keys, error_messages = (cast("list[str]", each) for each in rest[2:])
        views = {prefix + name: view for name, view in self.published_views().items()}
        for name, view in views.items():
            value = state_dict.get(name)
            if value is None:
                missing_keys.append(name)
            elif value.shape != view.shape:
                error_messages.append(f"{name} is {tuple(value.shape)}, the model has {tuple(view.shape)}")
            else:
                with torch.no_grad():
                    view.copy_(value)
        unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in views)


class SparseMoe(nn.Module):
    """Top-k routed experts. Router scores in fp32 over all experts."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        gather: Gather = ALONE,
        places: ExpertPlaces = LOCAL_EXPERTS,
    ) -> None:
        super().__init__()
        self.layer, self.top_k, self.gather = layer, config.num_experts_per_tok, gather
        self.places = places
        self.gate = Weight(config.num_local_experts, config.hidden_size)
        self.experts = StackedExperts(config, gather.shard, places.shard)

    def forward(self, x_TD: Tensor, residual: Residual, routing: Routing | None) -> Tensor:
        """The experts' sum, joined to the residual: the columns of both that are this process's."""
        replayed_TK = None if routing is None else routing.experts_of(self.layer)
        routed = moe_router(x_TD, self.gate.weight, self.top_k, replayed_TK)
        weights_TK = routed.weights_TK if routing is None else routing.record(self.layer, routed)
        w13_EFD, w2_EID = self.experts.w13_EFD, self.experts.w2_EID
        if self.gather.shard.is_whole:
            matrices = (w13_EFD, w2_EID)
            return self.places.mix(x_TD, weights_TK, routed.experts_TK, matrices, residual)
        part = ExpertPart(w13_EFD=w13_EFD, w2_EID=w2_EID, gather_columns=self.gather.gather_columns)
        return moe_experts_part(x_TD, weights_TK, routed.experts_TK, part, residual)
