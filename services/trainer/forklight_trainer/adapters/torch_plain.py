"""The engine of one process: fp32 master weights, torch AdamW, and a copy in the run's dtype to compute with.

With DeepSpeed there would be a second adapter; this one is the oracle it has to agree with.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from forklight_core.errors import CheckpointError, ConfigError, PreconditionError
from forklight_core.runfile.schema import TrainerSection
from forklight_model.checkpoint import load_model, load_published_tensors, published_tensors, save_model
from forklight_model.config import ModelConfig
from forklight_model.logprobs import TokenStats, token_logprobs
from forklight_model.model import HybridModel
from forklight_model.routing import RecordedRouting, Routing
from forklight_model.sizes import num_parameters
from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.objective import Objective, PackOutcome, PackScore

log = logging.getLogger(__name__)

OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"
MOST_PROBED_PARAMETERS = 500_000_000  # a larger model is not held twice
STATE_KEYS = ("step", "exp_avg", "exp_avg_sq")


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
        master: HybridModel,
        optimizer: OptimizerSettings,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device, self._dtype = torch.device(device), dtype
        self._probe: tuple[Path, HybridModel] | None = None
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
    def config(self) -> ModelConfig:
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

    @torch.no_grad()
    def score_version(self, folder: Path, pack: Pack, temperature: float) -> Tensor | None:
        if num_parameters(self.config) > MOST_PROBED_PARAMETERS:
            return None
        if self._probe is None or self._probe[0] != folder:
            try:
                self._probe = (folder, load_model(folder, self._dtype).to(self._device))
            except (CheckpointError, ConfigError) as error:
                log.warning(
                    "published weights cannot be read, parity is not gated", extra={"reason": str(error)}
                )
                return None
        routing = self._routing(pack, is_needed=False)
        return self._token_stats(self._probe[1], pack, temperature, routing).logprobs_T.cpu()

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
        torch.nn.utils.clip_grads_with_norm_(self._master.parameters(), grad_clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._refresh_compute()
        return float(norm)

    def save_master(self, folder: Path) -> None:
        save_model(self._master, folder)

    def save_published(self, folder: Path) -> None:
        save_model(self._compute, folder)

    def save_optimizer(self, folder: Path) -> None:
        tensors = {
            f"{name}.{key}": self._optimizer.state[parameter][key].detach().cpu().contiguous()
            for name, parameter in self._master.named_parameters()
            if parameter in self._optimizer.state
            for key in STATE_KEYS
        }
        save_file(tensors, folder / OPTIMIZER_FILE)
        save_file(_random_state(self._device), folder / RANDOM_FILE)

    def restore(self, folder: Path) -> None:
        restored = load_model(folder, torch.float32)
        load_published_tensors(self._master, dict(published_tensors(restored)))
        self._restore_optimizer(_read(folder / OPTIMIZER_FILE))
        random = _read(folder / RANDOM_FILE)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and self._device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self._device)
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
        self, model: HybridModel, pack: Pack, temperature: float, routing: Routing | None
    ) -> TokenStats:
        ids_T, cu_seqlens = pack.input_ids_T.to(self._device), pack.cu_seqlens.to(self._device)
        return token_logprobs(model, ids_T, cu_seqlens, temperature, routing)

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

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        names = [name for name, _ in self._master.named_parameters()]
        expected = {f"{name}.{key}" for name in names for key in STATE_KEYS}
        if tensors and set(tensors) != expected:
            odd = sorted(set(tensors) ^ expected)[:4]
            raise CheckpointError(
                f"{OPTIMIZER_FILE} does not fit the model: {', '.join(odd)} is missing or unknown"
            )
        self._optimizer.state.clear()
        for name, parameter in self._master.named_parameters() if tensors else ():
            self._optimizer.state[parameter] = {
                key: tensors[f"{name}.{key}"].to(self._device, copy=True) for key in STATE_KEYS
            }

    def _move_gradients(self) -> None:
        """bf16 gradients of one pack are added up in fp32."""
        for master, computed in zip(self._master.parameters(), self._compute.parameters(), strict=True):
            if computed.grad is not None:
                gradient = computed.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                computed.grad = None

    @torch.no_grad()
    def _refresh_compute(self) -> None:
        if self._compute is self._master:
            return
        for master, computed in zip(self._master.parameters(), self._compute.parameters(), strict=True):
            computed.copy_(master)


def _on_cpu(stats: TokenStats) -> TokenStats:
    return TokenStats(logprobs_T=stats.logprobs_T.cpu(), entropy_T=stats.entropy_T.cpu())


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; an older checkpoint will be tried") from error
