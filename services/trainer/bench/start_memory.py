"""How much host memory each process of a sharded trainer takes while it starts, beside what it then keeps.

    python services/trainer/bench/start_memory.py [--size mini] [--layers 3] [--sources fresh,...]

On CPUs, where host memory is all there is. Whole: a model that every process builds and hands over, as one
process does. The others take their shares from the run's seed, a model folder, a checkpoint; restored: a
checkpoint taken over after a fresh start, which sets AdamW's moments. Figures are of the largest process.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import paths  # noqa: F401
import torch

from forklight_core.ports import free_ports
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES, hybrid_layers, num_parameters

if TYPE_CHECKING:
    from forklight_model.stretches import WeightSource

SECONDS = 500
JOBS = {"zero3": (3, 1), "zero3-experts": (3, 2), "zero1": (1, 1), "zero1-experts": (1, 2)}
"""Stage, and processes that share the experts of a layer."""
SOURCES = ("whole", "fresh", "folder", "parts", "restored")
MIB = 2**20


def chosen_config(size: str, layers: int) -> ModelConfig:
    config = SIZES[size]
    if not layers:
        return config
    return replace(config, num_hidden_layers=layers, attn_type_list=hybrid_layers(layers))


def fresh_model(config: ModelConfig, like: HybridModel | None = None) -> HybridModel:
    model = like or HybridModel(config, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(0))
    return model


def measure(options: argparse.Namespace) -> None:
    """One start in this process; it prints a line of JSON."""
    from forklight_trainer.adapters.deepspeed.gang import join_gang
    from forklight_trainer.adapters.deepspeed.layout import Layout
    from forklight_trainer.adapters.deepspeed.library import import_deepspeed
    from forklight_trainer.adapters.deepspeed.rank import RankEngine
    from forklight_trainer.adapters.deepspeed.spread import make_spread
    from forklight_trainer.adapters.torch_plain import OptimizerSettings

    torch.set_num_threads(1)
    config = chosen_config(options.size, options.layers)
    gang = join_gang("cpu")
    import_deepspeed()
    stage, experts = JOBS[options.one]
    layout = Layout(num_ranks=gang.size, zero_stage=stage, expert_parallel=experts)
    spread = make_spread(layout, gang, config)
    adam, dtype = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.1), torch.bfloat16
    RankEngine(fresh_model(SIZES["nano"]), adam, make_spread(layout, gang, SIZES["nano"]), dtype=dtype)
    gc.collect()
    before, _ = memory()
    Path("/proc/self/clear_refs").write_text("5")
    if options.source == "whole":
        unset = HybridModel(config, is_initialized=False, experts=spread.experts)
        own = RankEngine(fresh_model(config, unset), adam, spread, dtype=dtype)
    else:
        from forklight_model.checkpoint import weightless_model

        with open_source(options.source, config, options.folder) as weights:
            model = weightless_model(config, spread.experts)
            own = RankEngine(model, adam, spread, dtype=dtype, weights=weights)
    if options.source == "restored":
        from forklight_trainer.adapters.deepspeed.commands import Restore

        own.restore(Restore(folder=options.folder / "parts"))
    gc.collect()
    now, peak = memory()
    print(json.dumps({"kept": now - before, "peak": peak - before}), flush=True)
    os._exit(0)  # gloo's threads sometimes abort a process that takes its time to end


def open_source(source: str, config: ModelConfig, folder: Path) -> AbstractContextManager[WeightSource]:
    from forklight_model.stretches import FreshWeights, open_weights

    if source in ("fresh", "restored"):
        return nullcontext(FreshWeights(config, torch.Generator().manual_seed(0)))
    return open_weights(folder / source)


def memory() -> tuple[int, int]:
    """Bytes of this process in memory, and the most since the last reset."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024, int(status["VmHWM"].split()[0]) * 1024


def start(options: argparse.Namespace, job: str, source: str, folder: Path) -> dict[str, int]:
    """The largest process's figures."""
    (port,) = free_ports(1)
    command = [sys.executable, str(Path(__file__)), "--size", options.size, "--layers", str(options.layers)]
    command += ["--one", job, "--source", source, "--folder", str(folder)]
    shared = {"WORLD_SIZE": str(options.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}  # what is let go is given back
    children = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(options.processes)
    ]
    try:
        outputs = [child.communicate(timeout=SECONDS)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    found = [json.loads(line) for output in outputs for line in output.splitlines() if line.startswith("{")]
    if len(found) != options.processes:
        raise SystemExit(f"{job}, {source}: exit statuses {[child.returncode for child in children]}")
    return {name: max(each[name] for each in found) for name in ("kept", "peak")}


def write_sources(config: ModelConfig, folder: Path) -> None:
    """A published folder, and a checkpoint that one process wrote."""
    from forklight_model.checkpoint import save_model
    from forklight_model.config import CONFIG_FILE
    from forklight_model.parts import StateKey
    from forklight_trainer.checkpoints.parts import StatePart, write_parts

    model = fresh_model(config)
    save_model(model, folder / "folder", max_shard_bytes=64 * MIB)
    parts = [
        StatePart(
            name=name, key=key, shape=tuple(weight.shape), start=0, values=weight.detach().view(-1).clone()
        )
        for name, weight in model.named_parameters()
        for key in StateKey
    ]
    write_parts(folder / "parts", parts, rank=0, num_ranks=1, adam_step=1, random={})
    (folder / "parts" / CONFIG_FILE).write_text(json.dumps(config.to_published()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=[name for name in SIZES if name != "minimax-m1"], default="mini")
    parser.add_argument("--layers", type=int, default=3, help="so many blocks only; 0: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--jobs", default="zero3,zero3-experts", help=f"some of {', '.join(JOBS)}")
    parser.add_argument("--sources", default=",".join(SOURCES), help=f"some of {', '.join(SOURCES)}")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; temporary by default")
    parser.add_argument("--one", default="", help="measure this one; the script has started us")
    parser.add_argument("--source", default="")
    options = parser.parse_args()
    if options.one:
        measure(options)
    config = chosen_config(options.size, options.layers)
    whole = 4 * num_parameters(config)
    print(f"{options.processes} processes, the model in fp32 is {whole / MIB:,.0f} MiB")
    print("| | from | kept, MiB | peak, MiB | beyond, of the whole |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_sources(config, Path(folder))
        for job in options.jobs.split(","):
            for source in options.sources.split(","):
                found = start(options, job, source, Path(folder))
                kept, peak = found["kept"] / MIB, found["peak"] / MIB
                beyond = (found["peak"] - found["kept"]) / whole
                print(f"| {job} | {source} | {kept:,.0f} | {peak:,.0f} | {beyond:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
