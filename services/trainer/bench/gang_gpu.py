"""The sharded engine over several GPUs beside one: tokens a second of whole steps. Starts torchrun itself.

    python services/trainer/bench/gang_gpu.py [--size small] [--jobs zero1,zero3,...] [--packs long]

Every lane computes eight packs of 32 Ki tokens a step (a step of a real run has more), so twice the GPUs have
twice the tokens. With `--packs long` it computes two, each one sample of 80 Ki.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import paths  # noqa: F401
import torch
from work import ADAM, PACKED, draw_batch, learn, settings_for, with_step

from forklight_model.sizes import SIZES
from forklight_trainer.ports import TrainEngine

PACKS = {"mixed": (PACKED, 8), "long": ((80 * 1024,), 2)}
"""Lengths of the samples in a pack; packs a lane in a step."""
SECONDS = 500
JOBS = {
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero1-experts": {"zero_stage": 1, "expert_parallel": 0},
    "zero3-experts": {"zero_stage": 3, "expert_parallel": 0},
    "zero1-tokens": {"zero_stage": 1, "sequence_parallel": 0},
    "zero3-tokens": {"zero_stage": 3, "sequence_parallel": 0},
}
"""0: as many as there are processes."""


def measure_alone(size: str, packs: str) -> dict[str, object]:
    """The engine of one process, which the others are held against."""
    from work import open_engine

    from forklight_trainer.memory import plan_recomputation

    trainer = settings_for(sum(PACKS[packs][0])).trainer
    engine = open_engine(size, plan_recomputation(trainer, SIZES[size], "cuda"))
    seconds, num_tokens = _steps(engine, size, packs, 1)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {
        "ms": seconds * 1e3,
        "tokens_per_s": num_tokens / seconds,
        "peak_gib": peak,
        "recomputation": None,
    }


def _steps(engine: TrainEngine, size: str, packs: str, num_lanes: int) -> tuple[float, int]:
    """Median seconds of a step, and its tokens."""
    pack, packs_a_lane = PACKS[packs]
    lengths = pack * (packs_a_lane * num_lanes)
    batch = draw_batch(lengths, SIZES[size].vocab_size)
    seconds = []
    for step in range(1, 6):
        torch.cuda.synchronize()
        started = time.perf_counter()
        learn(engine, with_step(batch, step), sum(pack))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    if os.environ.get("BENCH_PROFILE"):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
            learn(engine, with_step(batch, 7), sum(pack))
            torch.cuda.synchronize()
        print(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=30), file=sys.stderr)
    return statistics.median(seconds[1:]), sum(lengths)


def measure(size: str, name: str, packs: str) -> None:
    """One engine in a gang that torchrun started; the first process prints a line of JSON."""
    from forklight_model.model import HybridModel
    from forklight_trainer.adapters.deepspeed.engine import DeepSpeedEngine, follow
    from forklight_trainer.adapters.deepspeed.gang import join_gang
    from forklight_trainer.adapters.deepspeed.layout import Layout
    from forklight_trainer.adapters.deepspeed.library import import_deepspeed
    from forklight_trainer.adapters.deepspeed.rank import RankEngine
    from forklight_trainer.adapters.deepspeed.spread import make_spread
    from forklight_trainer.memory import plan_recomputation

    gang = join_gang("cuda")
    import_deepspeed()
    chosen = {key: value or gang.size for key, value in JOBS[name].items()}
    layout = Layout(num_ranks=gang.size, **chosen)
    spread = make_spread(layout, gang, SIZES[size])
    with torch.device(gang.device):
        model = HybridModel(SIZES[size], is_initialized=False, experts=spread.experts)
    model.initialize(torch.Generator(gang.device).manual_seed(0))
    pack_tokens = sum(PACKS[packs][0])
    trainer = settings_for(pack_tokens).trainer.model_copy(update={"processes": gang.size, **chosen})
    model.recomputation = plan_recomputation(trainer, model.config, "cuda")
    own = RankEngine(model, ADAM, spread, dtype=torch.bfloat16)
    if gang.rank:
        follow(own)
    else:
        engine = DeepSpeedEngine(own, Path("/tmp"))
        seconds, num_tokens = _steps(engine, size, packs, layout.num_lanes)
        found = {"ms": seconds * 1e3, "tokens_per_s": num_tokens / seconds}
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(json.dumps(found | {"peak_gib": peak, "recomputation": str(model.recomputation)}), flush=True)
        engine.dismiss()
    os._exit(0)  # NCCL's threads would wait for each other


def start(size: str, name: str, packs: str, num_gpus: int) -> dict[str, object] | None:
    """torchrun, for one engine."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={num_gpus}"]
    command += ["--master-addr=127.0.0.1", f"--master-port={29600 + num_gpus}"]
    command += [str(Path(__file__)), "--size", size, "--one", name, "--packs", packs]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"  !! {name} on {num_gpus}: not done after {SECONDS} s", flush=True)
        return None
    if os.environ.get("BENCH_PROFILE"):
        print(done.stderr, flush=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"  !! {name} on {num_gpus}: exit status {done.returncode}\n{done.stderr[-2500:]}", flush=True)
        return None
    found: dict[str, object] = json.loads(lines[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="small")
    parser.add_argument("--jobs", default="zero1,zero3,zero3-experts,zero1-tokens")
    parser.add_argument("--packs", default="mixed", choices=list(PACKS))
    parser.add_argument("--one", default="", help="measure this one; torchrun has started us")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    if options.one:
        measure(options.size, options.one, options.packs)
    from harness import require_gpu
    from report import Report

    require_gpu()
    report, num_gpus = Report("trainer_gang", "cuda", options.size), torch.cuda.device_count()
    alone = measure_alone(options.size, options.packs)
    one = float(str(alone["tokens_per_s"]))
    report.add("1 GPU, one process", one, "tokens/s", notes=_notes(alone))
    gc.collect()
    torch.cuda.empty_cache()
    sharded = start(options.size, "zero1", options.packs, 1)
    if sharded is not None:
        rate = float(str(sharded["tokens_per_s"]))
        report.add("1 GPU, zero1", rate, "tokens/s", notes=_notes(sharded))
    target = {2: 1.85, 4: 3.5}.get(num_gpus)
    for name in options.jobs.split(",") if num_gpus > 1 else ():
        found = start(options.size, name, options.packs, num_gpus)
        if found is not None:
            rate = float(str(found["tokens_per_s"]))
            report.add(f"{num_gpus} GPUs, {name}", rate, "tokens/s", notes=_notes(found))
            report.add(f"{num_gpus} GPUs, {name}, of one", rate / one, at_least=target)
    report.show()
    best = max((row.ratio for row in report.rows if row.ratio is not None), default=1.0)
    return int(options.check and best < 1)


def _notes(found: dict[str, object]) -> str:
    step_ms, peak = (float(str(found[name])) for name in ("ms", "peak_gib"))
    return f"{step_ms:,.0f} ms, {peak:.1f} GiB, {found['recomputation']}"


if __name__ == "__main__":
    sys.exit(main())
