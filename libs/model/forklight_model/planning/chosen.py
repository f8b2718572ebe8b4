"""Requests from what a person names: a size, or a run file; and the options that change it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from forklight_core.errors import ConfigError
from forklight_model.config import ModelConfig, load_config
from forklight_model.planning.assumptions import (
    PAPER,
    PAPER_RATES,
    PAPER_SOURCES,
    Rates,
    Workload,
    replace_assumptions,
)
from forklight_model.planning.hardware import Gpu
from forklight_model.planning.request import Request
from forklight_model.sizes import SIZES

if TYPE_CHECKING:
    from forklight_core.runfile import RunFile

PAPER_MODEL = "minimax-m1"


def choose_run(model: str, gpu: Gpu, gpus: int) -> Request:
    """The default run of a size, or the run of a run file; ConfigError with what exists for anything else."""
    if model in SIZES:
        return _choose_size(model, gpu, gpus)
    path = Path(model)
    if path.suffix == ".toml" or path.is_file():
        from forklight_core.runfile import load_run_file

        return _choose_run_file(path, load_run_file(path), gpu, gpus)
    near = difflib.get_close_matches(model, SIZES, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ConfigError(f"no model is called {model!r}{hint} There are {', '.join(SIZES)}, or name a run file")


def _choose_size(model: str, gpu: Gpu, gpus: int) -> Request:
    config = SIZES[model]
    if model == PAPER_MODEL:
        return Request(
            model=model,
            config=config,
            gpu=gpu,
            gpus=gpus,
            workload=PAPER,
            rates=PAPER_RATES,
            sources=PAPER_SOURCES,
        )
    workload = Workload()
    room = config.max_position_embeddings - workload.prompt_tokens
    workload = replace(workload, window=min(workload.window, room))
    return Request(model=model, config=config, gpu=gpu, gpus=gpus, workload=workload)


def _choose_run_file(path: Path, run: RunFile, gpu: Gpu, gpus: int) -> Request:
    if run.model.hf:
        raise ConfigError(
            "a plan is made from the parts of our own model; what one of transformers (model.hf) needs is "
            "not known"
        )
    from forklight_core.runfile import largest_window

    config: ModelConfig = load_config(run.model.path) if run.model.path else SIZES[run.model.size]
    trainer = run.trainer
    workload = Workload(
        batches=trainer.steps / trainer.updates_per_version,
        groups=trainer.groups_per_step * trainer.updates_per_version,
        group_size=run.sampling.group_size,
        window=largest_window(run),
        pack_tokens=trainer.pack_tokens,
        updates=trainer.updates_per_version,
        max_batch=run.rollout.max_batch,
    )
    keys = {
        "batches": "trainer.steps / updates_per_version",
        "groups": "trainer.groups_per_step x updates_per_version",
        "group_size": "sampling.group_size",
        "window": "length.windows" if run.length.windows else "sampling.max_new_tokens",
        "pack_tokens": "trainer.pack_tokens",
        "updates": "trainer.updates_per_version",
        "max_batch": "rollout.max_batch",
    }
    sources = {name: f"{path}: {key}" for name, key in keys.items()}
    return Request(model=run.run.name, config=config, gpu=gpu, gpus=gpus, workload=workload, sources=sources)


def with_assumptions(request: Request, values: Mapping[str, float], said: str) -> Request:
    """The request with other values of what is assumed; `said` is where they come from."""
    rates: Rates
    rates, workload = replace_assumptions(request.rates, request.workload, values)
    sources = {**request.sources, **dict.fromkeys(values, said)}
    return replace(request, rates=rates, workload=workload, sources=sources)
