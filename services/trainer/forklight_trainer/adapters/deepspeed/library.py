"""DeepSpeed itself, at the version whose insides this engine knows."""

from __future__ import annotations

from typing import Any

from torch import nn

from forklight_core.errors import ConfigError

TRIED_VERSION = "0.19.8"


def import_deepspeed() -> Any:  # noqa: ANN401
    """The library at the version this engine was tried with; nothing is compiled."""
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            "trainer.engine = 'deepspeed' needs DeepSpeed: pip install 'forklight-trainer[deepspeed]'"
        ) from error
    if deepspeed.__version__ != TRIED_VERSION:
        raise ConfigError(
            f"DeepSpeed {deepspeed.__version__} is installed; this engine relies on the insides of "
            f"{TRIED_VERSION}: pip install 'deepspeed=={TRIED_VERSION}'"
        )
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed


def expert_sign(num_experts: int) -> nn.Module:
    """A module without weights by which stages 1 and 2 see that experts are spread.

    They look for a layer of DeepSpeed's own kind, and then go by the marks on the weights.
    """
    from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer

    class ExpertSign(AutoEPMoELayer):  # type: ignore[misc]  # DeepSpeed has no types
        def __init__(self) -> None:
            nn.Module.__init__(self)  # nothing of the layer itself
            self.num_experts = num_experts

        def set_deepspeed_parallelism(self, *_: object, **__: object) -> None:
            """Our experts know their processes."""

    return ExpertSign()
