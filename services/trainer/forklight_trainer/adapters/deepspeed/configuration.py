"""What DeepSpeed is told, with the settings that its defaults get wrong for this trainer."""

from __future__ import annotations

import torch

from forklight_trainer.adapters.deepspeed.layout import Layout
from forklight_trainer.adapters.torch_plain import OptimizerSettings

ONE_SUB_GROUP = int(1e11)
"""ZeRO-3 steps its optimizer once a sub-group; one is enough where nothing is offloaded."""
REDUCE_BUCKET = int(5e8)
PREFETCH_BUCKET = int(1e9)
LIVE_PARAMETERS = int(2.5e9)
"""Two blocks of MiniMax-M1 with an eighth of its experts: the next one is fetched beside the current."""
REUSE_DISTANCE = int(2e9)

Value = bool | int | float | str | list[float]
Config = dict[str, "Value | Config"]


def deepspeed_config(layout: Layout, optimizer: OptimizerSettings, dtype: torch.dtype) -> Config:
    """Gradients are added up and reduced in fp32, AdamW is torch's in fp32, accumulation is the caller's."""
    config: Config = {
        "train_micro_batch_size_per_gpu": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 1.0,  # set anew at every update
        "data_types": {"grad_accum_dtype": "fp32"},  # the default is the model's dtype
        "communication_data_type": "fp32",
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": 0.0,  # set anew at every update
                "betas": list(optimizer.betas),
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": True,  # DeepSpeed's own would be compiled at the first start
                "fused": True,
            },
        },
        "zero_optimization": _zero(layout),
    }
    if dtype == torch.bfloat16:
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    return config


def _zero(layout: Layout) -> Config:
    zero: Config = {
        "stage": layout.zero_stage,
        "overlap_comm": layout.zero_stage > 1,  # stage 1 reduces once, at the update
        "contiguous_gradients": True,
        "reduce_bucket_size": REDUCE_BUCKET,
    }
    if layout.zero_stage == 3:
        zero |= {
            "sub_group_size": ONE_SUB_GROUP,
            "stage3_prefetch_bucket_size": PREFETCH_BUCKET,
            "stage3_max_live_parameters": LIVE_PARAMETERS,
            "stage3_max_reuse_distance": REUSE_DISTANCE,
            "stage3_param_persistence_threshold": int(1e5),
        }
    return zero
