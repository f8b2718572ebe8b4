"""The engine of one process: fp32 master weights, torch AdamW, and a copy in the run's dtype to compute with.

With DeepSpeed there would be a second adapter; this one is the oracle it has to agree with.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from forklight_core.errors import PreconditionError
from forklight_core.runfile.schema import TrainerSection
from forklight_core.weights.manifest import TensorEntry
from forklight_model.checkpoint import check_shapes, published_tensors
from forklight_model.logprobs import TokenStats, token_logprobs
from forklight_model.parts import PartsReader, StateKey
from forklight_model.policy import Policy, PolicyConfig
from forklight_model.routing import RecordedRouting, Routing
from forklight_trainer.adapters.version_scorer import VersionScorer
from forklight_trainer.batches.packing import Pack
from forklight_trainer.checkpoints.parts import StatePart
from forklight_trainer.checkpoints.random_state import restore_random_state, take_random_state
from forklight_trainer.checkpoints.snapshot import HostBuffers, RankSnapshot
from forklight_trainer.loss.objective import Objective, PackOutcome, PackScore
from forklight_trainer.publishing.plan import SinkPlan

CLIP_SLACK = 1e-6
"""What torch adds to a norm before it divides by it."""
MOMENTS = (StateKey.EXP_AVG, StateKey.EXP_AVG_SQ)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """AdamW as the run file has it."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float


def optimizer_settings(trainer: TrainerSection) -> OptimizerSettings:
    return OptimizerSettings(
        betas=(trainer.adam_beta1, trainer.adam_beta2),
        eps=trainer.adam_eps,
        weight_decay=trainer.weight_decay,
    )


class TorchEngine:
    """A `TrainEngine` in plain torch."""

    def __init__(
        self,
        master: Policy,
        optimizer: OptimizerSettings,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device, self._dtype = torch.device(device), dtype
        self._versions = VersionScorer(dtype, self._device)
        self._host = HostBuffers()
        self._master = master.to(self._device)
        self._compute = self._master if dtype == torch.float32 else copy.deepcopy(self._master).to(dtype)
        self._optimizer = torch.optim.AdamW(
            self._master.parameters(),
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    @property
    def config(self) -> PolicyConfig:
        return self._master.config

    @property
    def num_lanes(self) -> int:
        return 1

    def accumulate(self, packs: Sequence[Pack], objective: Objective) -> list[PackOutcome]:
        return [self._accumulate(pack, objective) for pack in packs]

    @torch.no_grad()
    def score(self, pack: Pack, temperature: float) -> TokenStats:
        routing = self._routing(pack, is_needed=False)
        return _on_cpu(self._token_stats(self._compute, pack, temperature, routing))

    def score_version(self, folder: Path, pack: Pack, temperature: float) -> Tensor | None:
        return self._versions.score(folder, pack, temperature)

    def discard_gradients(self) -> None:
        self._compute.zero_grad(set_to_none=True)
        self._master.zero_grad(set_to_none=True)

    def update(self, *, learning_rate: float, grad_clip: float) -> float:
        gradients = [parameter.grad for parameter in self._master.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(norm)):
            raise PreconditionError(
                f"the gradient norm is {float(norm)}; the optimizer was not touched. Look at the largest "
                "ratio of the step, lower trainer.learning_rate, or restore an older checkpoint"
            )
        if float(norm) + CLIP_SLACK > grad_clip:  # else the factor is 1, and a pass over all gradients
            torch.nn.utils.clip_grads_with_norm_(self._master.parameters(), grad_clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._refresh_compute()
        return float(norm)

    def publish(self, plan: SinkPlan) -> list[TensorEntry]:
        with plan.open() as sink:
            # The largest first: one that comes last is waited for by one lane alone.
            for name, tensor in sorted(published_tensors(self._compute), key=lambda each: -each[1].nbytes):
                sink.put(name, tensor)
            return sink.close()

    def close(self) -> None:
        return None

    def snapshot(self) -> RankSnapshot:
        adam_step = self._adam_step()
        return RankSnapshot(
            parts=self._host.hold(self._parts()),
            adam_step=adam_step,
            random=take_random_state(self._device),
            buffers=self._host,
        )

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        with PartsReader(folder) as reader:
            check_shapes(reader, self._master.parameter_shapes)
            self.discard_gradients()
            self._optimizer.state.clear()
            for name, parameter in self._master.named_parameters():
                parameter.copy_(reader.read(name, StateKey.WEIGHT).view_as(parameter))
                if reader.has_moments:
                    self._optimizer.state[parameter] = self._restored_moments(reader, name, parameter)
            restore_random_state(reader, self._device)
        self._versions.forget()
        self._refresh_compute()

    def _accumulate(self, pack: Pack, objective: Objective) -> PackOutcome:
        routing = self._routing(pack, is_needed=objective.adds_router_loss)
        stats = self._token_stats(self._compute, pack, objective.temperature, routing)
        balance = routing.load_balancing_loss().cpu() if routing and objective.adds_router_loss else None
        loss, outcome = objective.evaluate(pack, PackScore(stats=_on_cpu(stats), router_loss=balance))
        loss.backward()  # type: ignore[no-untyped-call]
        if self._compute is not self._master:
            self._move_gradients()
        return outcome

    def _token_stats(
        self, policy: Policy, pack: Pack, temperature: float, routing: Routing | None
    ) -> TokenStats:
        ids_T, cu_seqlens = pack.input_ids_T.to(self._device), pack.cu_seqlens.to(self._device)
        return token_logprobs(policy, ids_T, cu_seqlens, temperature, routing)

    def _routing(self, pack: Pack, *, is_needed: bool) -> Routing | None:
        """Replays what the pack names; without that, only there when somebody wants to read it."""
        if pack.routing is None:
            return Routing() if is_needed else None
        experts_LTK, weights_LTK = pack.routing.experts_LTK, pack.routing.weights_LTK
        return Routing(
            RecordedRouting(
                experts_LTK=experts_LTK.to(self._device), weights_LTK=weights_LTK.to(self._device)
            )
        )

    def _parts(self) -> Iterator[StatePart]:
        """Each parameter whole, and its moments once there are any."""
        for name, parameter in self._master.named_parameters():
            moments = self._optimizer.state.get(parameter, {})
            held = {StateKey.WEIGHT: parameter.detach()} | {key: moments[key] for key in MOMENTS if moments}
            for key, tensor in held.items():
                shape = tuple(parameter.shape)
                yield StatePart(name=name, key=key, shape=shape, start=0, values=tensor.reshape(-1))

    def _adam_step(self) -> int:
        """How many steps the optimizer has made: as many for every parameter."""
        states = [self._optimizer.state.get(parameter, {}) for parameter in self._master.parameters()]
        steps = {int(state["step"]) if state else 0 for state in states}
        if len(steps) != 1:
            raise PreconditionError(
                f"parameters have made {', '.join(map(str, sorted(steps)))} steps of the optimizer: some had "
                "no gradient in some step, which no checkpoint can hold"
            )
        return steps.pop()

    def _restored_moments(self, reader: PartsReader, name: str, parameter: Tensor) -> dict[str, Tensor]:
        moments = {str(key): reader.read(name, key).view_as(parameter).to(self._device) for key in MOMENTS}
        return moments | {"step": torch.tensor(float(reader.adam_step), device=self._device)}

    def _move_gradients(self) -> None:
        """bf16 gradients of one pack are added up in fp32."""
        for master, computed in zip(self._master.parameters(), self._compute.parameters(), strict=True):
            if computed.grad is not None:
                gradient = computed.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                computed.grad = None

    @torch.no_grad()
    def _refresh_compute(self) -> None:
        if self._compute is not self._master:
            torch._foreach_copy_(list(self._compute.parameters()), list(self._master.parameters()))


def _on_cpu(stats: TokenStats) -> TokenStats:
    return TokenStats(logprobs_T=stats.logprobs_T.cpu(), entropy_T=stats.entropy_T.cpu())
