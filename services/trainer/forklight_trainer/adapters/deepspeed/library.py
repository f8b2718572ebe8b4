"""DeepSpeed itself, at the version whose insides this engine knows."""

from __future__ import annotations

from typing import Any

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
