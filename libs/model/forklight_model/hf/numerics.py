"""What may be demanded of a transformers model's log-probs: closeness, never equal bits."""

from __future__ import annotations

import torch

from forklight_model.parity import NumericMode, device_name, triton_version
from forklight_model.policy import PolicyConfig


def hf_numeric_mode(config: PolicyConfig, device: str) -> NumericMode:
    """Tolerance mode, and why."""
    return NumericMode(
        is_parity=False,
        reason=(
            f"the policy is computed by {config.numerics}: its products and its attention are torch's, whose "
            "bits change with the batch; the head alone is ours"
        ),
        contract=config.numerics,
        device=device_name(torch.device(device)),
        torch=torch.__version__,
        triton=triton_version(),
    )
