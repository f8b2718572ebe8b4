"""Whether the right vLLM is here, with our plugin; and how its processes are told to behave."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from importlib.util import find_spec

from forklight_core.errors import ConfigError

PINNED = "0.25.1"
"""The only release this adapter runs on: it uses private interfaces of vLLM in four places."""
INSTALL = f'pip install "forklight-rollout[vllm]" (vllm=={PINNED} and forklight-vllm-plugin)'
PLUGIN = "forklight"

_ENVIRONMENT = {
    "VLLM_PLUGINS": PLUGIN,
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other runner has no seam for our sampler
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would copy the pod's threads in mid-air
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def require_vllm() -> None:
    """ConfigError with the command that mends it, unless everything is installed."""
    if find_spec("vllm") is None:
        raise ConfigError(f"the engine is vllm, but vLLM is not installed: {INSTALL}")
    if not any(each.name == PLUGIN for each in entry_points(group="vllm.general_plugins")):
        raise ConfigError(
            f"vLLM is installed, but the plugin {PLUGIN!r} is not among its entry points: {INSTALL}"
        )
    _set_environment()
    import vllm

    release = vllm.__version__.partition("+")[0]
    if release != PINNED:
        raise ConfigError(
            f"vLLM {vllm.__version__} is installed, this adapter runs on {PINNED} only: {INSTALL}. Other "
            "releases were not tried; a prototype of the plugin also ran on CPU builds of 0.28.0 and 0.32.0"
        )


def _set_environment() -> None:
    """vLLM reads these when it is imported, in this process and in those it starts; yours win."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
