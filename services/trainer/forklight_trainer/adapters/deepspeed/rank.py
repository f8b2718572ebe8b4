"""One process's half of the engine: what it does with each command. The same code on every process.

Legend: T packed tokens.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from forklight_core.errors import ForklightError, PreconditionError
from forklight_core.weights.manifest import TensorEntry
from forklight_model.logprobs import TokenStats
from forklight_model.model import HybridModel
from forklight_model.routing import RecordedRouting
from forklight_model.stretches import HeldWeights, WeightSource
from forklight_trainer.adapters.deepspeed.commands import (
    Accumulate,
    Hold,
    Publish,
    Restore,
    Score,
    Update,
)
from forklight_trainer.adapters.deepspeed.configuration import deepspeed_config
from forklight_trainer.adapters.deepspeed.fragments import own_fragments
from forklight_trainer.adapters.deepspeed.layout import Layout
from forklight_trainer.adapters.deepspeed.library import import_deepspeed
from forklight_trainer.adapters.deepspeed.published import own_published
from forklight_trainer.adapters.deepspeed.scorer import LEAVES, Scorer
from forklight_trainer.adapters.deepspeed.spool import FollowerWriter
from forklight_trainer.adapters.deepspeed.spread import Spread, parameter_groups, prepare
from forklight_trainer.adapters.deepspeed.state import Place, RankState
from forklight_trainer.adapters.torch_plain import OptimizerSettings
from forklight_trainer.batches.packing import Pack
from forklight_trainer.checkpoints.random_state import take_random_state
from forklight_trainer.checkpoints.snapshot import HostBuffers, RankSnapshot
from forklight_trainer.loss.objective import Objective, PackOutcome, PackScore


class RankEngine:
    """A process's share of weights, optimizer and packs."""

    def __init__(
        self,
        policy: HybridModel,
        optimizer: OptimizerSettings,
        spread: Spread,
        *,
        dtype: torch.dtype = torch.float32,
        weights: WeightSource | None = None,
    ) -> None:
        """`weights` to start from, where the policy has none of its own: where it is on the meta device."""
        self.config, self.layout, self.gang = policy.config, spread.layout, spread.gang
        self.dtype = dtype
        places = {name: _place(policy, name) for name, _ in policy.named_parameters()}
        self._host, self._writer = HostBuffers(), FollowerWriter()
        weights = HeldWeights(policy) if weights is None else weights
        config = deepspeed_config(self.layout, optimizer, dtype)
        prepare(policy, spread, config, dtype)
        self._engine = _wrap(Scorer(policy, spread), parameter_groups(policy, spread), config, self.layout)
        self._state = RankState(self._engine, self.layout, self.gang, places)
        self._state.start_from(weights)

    def accumulate(self, command: Accumulate) -> list[PackOutcome]:
        """Outcomes of this lane's packs, without the fillers."""
        outcomes = []
        for pack in command.packs:
            outcome = self._accumulate(pack or command.filler, command.objective, counts=pack is not None)
            if pack is not None:
                outcomes.append(outcome)
        return outcomes

    @torch.no_grad()
    def score(self, command: Score) -> TokenStats:
        stats, _ = self._forward(command.pack, command.temperature, with_balance=False)
        return stats

    def update(self, command: Update) -> float:
        """All processes agree on the norm, and whether it is a number, before any of them goes on."""
        engine = self._engine
        if self.layout.zero_stage == 3:
            _check_norm(self._own_norm())
        engine.optimizer.clip_grad = command.grad_clip
        for group in engine.optimizer.param_groups:
            group["lr"] = command.learning_rate
        engine.step()
        norm = float(engine.get_global_grad_norm())
        _check_norm(norm)  # stages 1 and 2 skip the update by themselves then
        return norm

    def discard_gradients(self) -> None:
        optimizer = self._engine.optimizer
        optimizer.zero_grad(set_to_none=True)
        for name in ("averaged_gradients", "all_grad_tensors"):
            held = getattr(optimizer, name, {})
            for group in held:
                held[group] = None

    def hold(self, command: Hold) -> RankSnapshot:
        """A copy of this process's state; all but the first process write it at once."""
        self._writer.wait()
        adam_step = self._state.adam_step
        snapshot = RankSnapshot(
            parts=self._host.hold(self._state.parts()),
            adam_step=adam_step,
            random=take_random_state(self.gang.device),
            buffers=self._host,
            rank=self.gang.rank,
            num_ranks=self.gang.size,
        )
        if self.gang.rank:
            self._writer.start(snapshot, command.spool)
        return snapshot

    def restore(self, command: Restore) -> None:
        self.discard_gradients()
        self._state.restore(command.folder)

    @torch.no_grad()
    def publish(self, command: Publish) -> list[TensorEntry]:
        """Entries of the tensors that this process wrote. One that fails still gathers with the others."""
        tensors = own_published(self._engine.module.policy, self.layout, self.gang.rank)
        try:
            with command.plan.open(self.gang.rank, self.gang.size) as sink:
                for name, tensor in tensors:
                    sink.put(name, tensor)
                return sink.close()
        except (ForklightError, OSError):
            deque(tensors, maxlen=0)
            raise

    def _accumulate(self, pack: Pack, objective: Objective, *, counts: bool) -> PackOutcome:
        stats, balance = self._forward(pack, objective.temperature, with_balance=objective.adds_router_loss)
        loss, outcome = objective.evaluate(pack, PackScore(stats=stats, router_loss=balance))
        # DeepSpeed takes the mean over processes of what is a sum.
        self._engine.backward(loss * (self.gang.size if counts else 0.0))
        return outcome

    def _forward(
        self, pack: Pack, temperature: float, *, with_balance: bool
    ) -> tuple[TokenStats, Tensor | None]:
        device = self.gang.device
        logprobs_T, entropy_T, balance = self._engine(
            pack.input_ids_T.to(device),
            pack.cu_seqlens.to(device),
            temperature,
            self._replayed(pack),
            with_balance,
        )
        stats = TokenStats(logprobs_T=logprobs_T.cpu(), entropy_T=entropy_T.cpu())
        return stats, None if balance is None else balance.cpu()

    def _replayed(self, pack: Pack) -> RecordedRouting | None:
        if pack.routing is None:
            return None
        experts_LTK, weights_LTK = (
            each.to(self.gang.device) for each in (pack.routing.experts_LTK, pack.routing.weights_LTK)
        )
        return RecordedRouting(experts_LTK=experts_LTK, weights_LTK=weights_LTK)

    def _own_norm(self) -> float:
        """Of all processes' gradients; each element is kept by one process."""
        from deepspeed.utils import safe_get_local_grad

        square = torch.zeros((), dtype=torch.float64, device=self.gang.device)
        for fragment in own_fragments(self._engine, self.layout.zero_stage):
            gradient = safe_get_local_grad(fragment.parameter)[: fragment.length]
            square += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square()
        dist.all_reduce(square)
        return math.sqrt(float(square)) if math.isfinite(float(square)) else math.nan


def _check_norm(norm: float) -> None:
    if not math.isfinite(norm) or norm < 0:
        raise PreconditionError(
            f"the gradient norm is {norm}; the optimizer was not touched. Look at the largest ratio of the "
            "step, lower trainer.learning_rate, or restore an older checkpoint"
        )


def _place(policy: HybridModel, name: str) -> Place:
    shape, start = policy.whole_place(name)
    return Place(shape=shape, start=start)


def _wrap(scorer: Scorer, groups: list[dict[str, Any]], config: dict[str, Any], layout: Layout) -> Any:  # noqa: ANN401  # DeepSpeed has no types
    deepspeed = import_deepspeed()
    if layout.zero_stage == 3:
        deepspeed.utils.set_z3_leaf_modules(scorer, list(LEAVES))
    engine, *_ = deepspeed.initialize(
        model=scorer, model_parameters=groups, config=config, dist_init_required=False
    )
    return engine
