"""Calls into vLLM's workers from outside; vLLM mixes this class into each worker."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from forklight_kernels.contract import contract_hash
from forklight_model.parity import check_numeric_mode
from forklight_vllm_plugin.sampler import RolloutSampler


class RolloutWorker:
    """`self` is vLLM's worker. Answers are plain values: they cross a process border."""

    model_runner: Any  # vLLM's

    def forklight_install(self) -> dict[str, object]:
        """Put our sampler in; say what this worker computes with."""
        self.model_runner.sampler = RolloutSampler(self.model_runner)
        model = self.model_runner.get_model()
        device = torch.device(self.model_runner.device)
        exact_kernels = list(getattr(model, "exact_kernels", ()))
        dtype = self.model_runner.model_config.dtype
        return {
            "exact_kernels": exact_kernels,
            "keeps_contract": bool(exact_kernels) and check_numeric_mode(device.type, dtype).is_parity,
            "loads_in_place": bool(getattr(model, "loads_in_place", False)),
            "contract": contract_hash(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": str(torch.__version__),
            "triton": _triton_version(),
        }

    def forklight_set_epoch(self, epoch: int) -> None:
        """Tokens drawn from now on come from the weights of this update."""
        sampler: RolloutSampler = self.model_runner.sampler
        sampler.epoch = epoch


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "none"
