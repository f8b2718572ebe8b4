"""Where a process computes: what its settings ask for, held against what is there."""

import torch

from forklight_core.errors import ConfigError


def choose_device(wanted: str) -> str:
    """`auto` is a GPU when there is one; `cuda` without one is an error, not a slow run."""
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError(
            f"FORKLIGHT_DEVICE is cuda, but torch {torch.__version__} sees no GPU: install torch with CUDA "
            "and an NVIDIA driver, or set FORKLIGHT_DEVICE=cpu"
        )
    if wanted == "auto":
        return "cuda" if has_gpu else "cpu"
    return wanted
