"""How each process of the gang gets its half of the engine."""

from __future__ import annotations

from pathlib import Path

from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile
from forklight_model.checkpoint import weightless_model
from forklight_model.config import ModelConfig
from forklight_model.spread.sequence import LightningSpread
from forklight_trainer.adapters.deepspeed.engine import DeepSpeedEngine, follow
from forklight_trainer.adapters.deepspeed.gang import Gang, join_gang, leave_gang
from forklight_trainer.adapters.deepspeed.layout import plan_layout
from forklight_trainer.adapters.deepspeed.library import import_deepspeed
from forklight_trainer.adapters.deepspeed.rank import RankEngine
from forklight_trainer.adapters.deepspeed.spread import make_spread
from forklight_trainer.adapters.torch_plain import optimizer_settings
from forklight_trainer.initial import DTYPES, initial_config, initial_weights
from forklight_trainer.memory import plan_recomputation


def lead(run_file: RunFile, device: str, spool_parent: Path) -> DeepSpeedEngine:
    """The first process: meet the others; what it is told, all do."""
    return DeepSpeedEngine(own_half(run_file, join_gang(device)), spool_parent)


def follow_first(run_file: RunFile, device: str) -> None:
    """Any other process; returns when the first one ends the run."""
    follow(own_half(run_file, join_gang(device)))
    leave_gang()


def own_half(run_file: RunFile, gang: Gang) -> RankEngine:
    """What a run file says, in a process that has met the others. Under ZeRO-3 no model is ever whole."""
    layout = plan_layout(run_file.trainer, gang.size)
    import_deepspeed()  # before the first group is made
    if run_file.model.hf:
        raise ConfigError(
            "model.hf and trainer.engine = 'deepspeed' do not go together yet: transformers' models train in "
            "one process, with trainer.engine = 'torch'"
        )
    config = initial_config(run_file)
    assert isinstance(config, ModelConfig)
    spread = make_spread(layout, gang, config, LightningSpread(run_file.trainer.lightning_spread))
    model = weightless_model(config, spread.experts)
    model.recomputation = plan_recomputation(run_file.trainer, config, gang.device.type)
    optimizer, dtype = optimizer_settings(run_file.trainer), DTYPES[run_file.model.dtype]
    with initial_weights(run_file) as weights:
        return RankEngine(model, optimizer, spread, dtype=dtype, weights=weights)
