"""Decoding through vLLM: the engine over it, its scheduler and its processes included; random weights.

    python services/rollout/bench/vllm_gpu.py decode [--size small] [--contexts 128,2048,16384] [--batch 64]

Needs what the engine over vLLM needs (libs/vllm_plugin/README.md), and room for the weights where temporary
files go. `--device cpu --size nano` shows on vLLM's CPU build that it works, and measures nothing.
"""

# ruff: noqa: INP001
from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import blake3
import paths
import torch
from harness import attempt, require_gpu
from options import Options, parse_options
from report import Report, traced
from stage import PLAIN, free_memory, make_model, random_prompt

from forklight_core.weights.files import VersionFile
from forklight_core.weights.manifest import Manifest, TensorEntry
from forklight_kernels.contract import contract_hash
from forklight_model.checkpoint import published_tensors
from forklight_model.model import HybridModel
from forklight_rollout.adapters.vllm import VllmOptions, vllm_engine_factory
from forklight_rollout.ports import EndRules, Engine, PromptStart, SequenceStart
from forklight_rollout.weights.manifest import PublishedWeights

sys.path += [str(paths.ROOT / "libs/vllm_plugin")]

SHARD = "model.safetensors"
STEP_TOKENS = 16_384
"""Prompt tokens of one step."""
WARMUP_STEPS = 32
PART = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A batch at one context."""

    prefill_s: float
    decode_s: float
    num_tokens: int
    num_steps: int

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.decode_s

    def describe(self) -> str:
        return f"{1e3 * self.decode_s / self.num_steps:.2f} ms a step; all prompts in {self.prefill_s:.1f} s"


def decode(options: Options) -> Report:
    """Tokens a second at some contexts."""
    report = Report("vllm_decode", options.device, "our engine over vLLM: every sequence has its own prompt")
    batch = options.batch or options.pick(64, quick=64, tiny=4)
    contexts = options.contexts or options.pick((128, 2048, 16384), quick=(128, 2048), tiny=(64, 300))
    num_steps = options.steps or options.pick(512, quick=128, tiny=8)
    with tempfile.TemporaryDirectory(prefix="forklight-bench-") as folder:
        model = make_model(options)
        weights = publish(model, Path(folder))
        del model
        free_memory()
        most = max(context + new_tokens(batch, context, num_steps) for context in contexts)
        engine = start_engine(weights, options, batch, most)
        try:
            report.say(f"{engine.traits}; {engine.numeric_mode.reason}")
            for context in contexts:
                row = partial(_row, report, engine, (batch, context), num_steps)
                report.guard(f"{context}", row)
        finally:
            engine.close()
    return report


def _row(report: Report, engine: Engine, extent: tuple[int, int], num_steps: int) -> None:
    batch, context = extent
    found = measure(engine, batch, context, num_steps)
    report.add(f"vLLM plugin, {batch} x {context:,}", found.tokens_per_s, "tokens/s", notes=found.describe())


def publish(model: HybridModel, folder: Path) -> PublishedWeights:
    """A version of weights as a trainer would publish it."""
    entries = {}
    with VersionFile(folder / SHARD) as file:
        for name, tensor in published_tensors(model):
            data = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data
            entry = TensorEntry(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                hash=blake3.blake3(data).hexdigest(),
                file=SHARD,
            )
            entries[name] = replace(entry, offset=file.begin(entry), length=entry.num_bytes)
            file.write(data)
        described = file.finish()
    manifest = Manifest(
        run_id="bench",
        version=0,
        step=0,
        contract="",
        kernels=contract_hash(),
        config_json=json.dumps(model.config.to_published()),
        files=(described,),
        tensors=entries,
    )
    return PublishedWeights(folder=folder, manifest_id="", manifest=manifest, tokenizer_hash="")


def start_engine(weights: PublishedWeights, options: Options, batch: int, max_tokens: int) -> Engine:
    """As a pod starts it."""
    is_cpu = options.device == "cpu"
    if is_cpu:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    chosen = VllmOptions(
        dtype="float32" if is_cpu else "bfloat16",
        num_sequences=batch,
        max_tokens=max_tokens,
        cache_bytes=int(options.budget_gib * 2**30) or (2**28 if is_cpu else 0),
        step_tokens=128 if is_cpu else STEP_TOKENS,
    )
    return vllm_engine_factory(chosen)(weights)


def new_tokens(batch: int, context: int, num_steps: int) -> int:
    """So many that no sequence ends before all have been timed: the first ones draw while others prefill."""
    return WARMUP_STEPS + num_steps + 2 * (batch + batch * context // STEP_TOKENS) + 64


def measure(engine: Engine, batch: int, context: int, num_steps: int) -> Measured:
    """Steps of the port while all sequences decode; a step brings whatever tokens have come."""
    end = EndRules(max_new_tokens=new_tokens(batch, context, num_steps), repetition_tokens=3000)
    keys = [time.monotonic_ns() + number for number in range(batch)]
    started = time.perf_counter()
    for key in keys:
        prompt_ids = random_prompt(engine.limits.vocabulary_size, context, seed=key % 2**32)
        start = SequenceStart(key=key, seed=key)
        engine.admit(PromptStart(group=key, prompt_ids=prompt_ids, draw=PLAIN, end=end, sequences=(start,)))
    begun: set[int] = set()
    while len(begun) < batch:
        begun.update(engine.step().keys)
    prefill_s = time.perf_counter() - started
    _take(engine, batch * WARMUP_STEPS)
    started = time.perf_counter()
    num_tokens = _take(engine, batch * num_steps)
    decode_s = time.perf_counter() - started
    engine.retire(keys)
    return Measured(prefill_s=prefill_s, decode_s=decode_s, num_tokens=num_tokens, num_steps=num_steps)


def _take(engine: Engine, num_tokens: int) -> int:
    taken = 0
    while taken < num_tokens:
        taken += len(engine.step().keys)
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    """The number of rows that failed."""
    options = parse_options((PART,), arguments, __doc__ or "")
    if options.device == "cuda":
        require_gpu()
    report = attempt(PART, partial(traced, partial(decode, options)))
    if report is None:
        return 1
    report.show()
    return len(report.failed)


if __name__ == "__main__":
    sys.exit(main())
