"""The whole model on one GPU beside transformers' own: a training step, a decode step, and parity in bits.

    python libs/model/bench_gpu.py [--size small] [--parts train,decode,parity,peer,profile]

Random weights, bf16. Training is forward and backward with block recomputation on both sides, without the
optimizer. Decode is one step of 64 sequences in a CUDA graph. Peers run first, in the same process.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from forklight_model.cache import HybridCache
from forklight_model.decode_graph import DecodeGraph
from forklight_model.inference import PromptPieces, prefill
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel, Recomputation
from forklight_model.parity import SamplingPlan, count_unequal, sample_sequences
from forklight_model.sizes import SIZES, num_active_parameters, num_parameters

DEVICE = "cuda"
TRAINING_SHAPES = ((1, 32768), (8, 4096))
HEAD_PIECE = 8192
RECOMPUTATION = Recomputation(keeps_experts=True, num_whole_layers=4)
"""What fits into the peer's peak memory at `small`."""
DECODE_BATCH, DECODE_CONTEXT = 64, 16384
PARITY_PROMPTS = (1, 63, 64, 65, 500, 1000, 2047, 4096, 6000, 7900, 8190, 8500)
ALPHA = 3.5565588200778455


def median_s(call: Callable[[], object], warmup: int = 2, repeats: int = 5) -> float:
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def our_model(size: str) -> HybridModel:
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = HybridModel(SIZES[size], is_initialized=False)
    model.to(torch.bfloat16)
    model.initialize(torch.Generator(DEVICE).manual_seed(0))
    return model


def our_step(model: HybridModel, batch: int, length: int) -> Callable[[], None]:
    ids_T = torch.randint(model.config.vocab_size, (batch * length,), device=DEVICE)
    cu_seqlens = torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=DEVICE)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        stats = token_logprobs(model, ids_T, cu_seqlens)
        (-stats.logprobs_T.sum() / len(ids_T)).backward()

    return step


def our_training(model: HybridModel, batch: int, length: int) -> dict[str, float]:
    model.recomputation = RECOMPUTATION
    step = our_step(model, batch, length)
    step()
    torch.cuda.reset_peak_memory_stats()
    seconds = median_s(step, warmup=1)
    peak = torch.cuda.max_memory_allocated() / 2**30
    model.zero_grad(set_to_none=True)
    model.recomputation = None
    return {"tokens_per_s": batch * length / seconds, "ms": seconds * 1e3, "peak_gib": peak}


@torch.inference_mode()
def our_decode(model: HybridModel, batch: int, context: int) -> dict[str, float]:
    cache = HybridCache(model.config, batch, context + 64, torch.bfloat16, DEVICE)
    graph = DecodeGraph(model, cache, batch)
    ids_T = torch.randint(model.config.vocab_size, (context,), device=DEVICE)
    prefill(model, cache, PromptPieces(slots=[0], lengths=[context]), ids_T)
    cache.fork(0, range(1, batch))
    ids_B = torch.randint(model.config.vocab_size, (batch,), device=DEVICE)
    seconds = median_s(lambda: graph(ids_B), warmup=5, repeats=40)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"tokens_per_s": batch / seconds, "ms": seconds * 1e3, "peak_gib": peak}


def our_profile(model: HybridModel, batch: int, length: int) -> dict[str, float]:
    """Where a training step's time on the GPU goes, kernel by kernel."""
    model.recomputation = RECOMPUTATION
    step = our_step(model, batch, length)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
    for row in rows[:40]:
        print(f"  {row.self_device_time_total / 1e3:9.2f} ms {row.count:5d} x  {row.key[:90]}")
    return {"gpu_ms": sum(row.self_device_time_total for row in rows) / 1e3}


def our_parity(model: HybridModel, num_tokens: int) -> dict[str, float]:
    """Prompts of many lengths, prefilled in pieces of two sizes; the weights change half-way.

    After the change every sequence is prefilled again under the new weights, as the policy `restart` does, so
    each half is compared with the weights that made it.
    """
    generator = torch.Generator().manual_seed(3)
    vocabulary = model.config.vocab_size
    lengths = [length for length in PARITY_PROMPTS for _ in range(2)]
    prompts = [torch.randint(vocabulary, (length,), generator=generator).to(DEVICE) for length in lengths]
    each = -(-num_tokens // (2 * len(prompts)))
    compared = unequal = 0
    worst = 0.0
    for piece in (1000, 512):
        plan = SamplingPlan(num_tokens=each, piece=piece, uses_graph=True)
        sequences = sample_sequences(model, prompts, plan)
        for first in range(0, len(sequences), 6):
            agreement = count_unequal(model, sequences[first : first + 6])
            compared += agreement.num_tokens
            unequal += agreement.num_unequal
            worst = max(worst, agreement.max_difference)
        prompts = [sequence.ids_T[: -(each // 2)] for sequence in sequences]
        model.initialize(torch.Generator(DEVICE).manual_seed(9))
    return {"compared": compared, "unequal": unequal, "max_difference": worst}


def peer_model(size: str) -> torch.nn.Module:
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    ours = SIZES[size]
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "head_dim", "num_key_value_heads", "num_local_experts", "num_experts_per_tok", "rms_norm_eps",
    )  # fmt: skip
    config = MiniMaxConfig(
        **{name: getattr(ours, name) for name in same},
        max_position_embeddings=262144,
        layer_types=[
            "linear_attention" if ours.is_lightning(layer) else "full_attention"
            for layer in range(ours.num_hidden_layers)
        ],
        full_attn_alpha_factor=ALPHA,
        linear_attn_alpha_factor=ALPHA,
        mlp_alpha_factor=ALPHA,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": ours.rope_theta,
            "partial_rotary_factor": ours.rotary_dim / ours.head_dim,
        },
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return MiniMaxForCausalLM(config).to(torch.bfloat16)


def peer_training(model: torch.nn.Module, batch: int, length: int) -> dict[str, float]:
    from torch.nn.functional import cross_entropy
    from torch.utils.checkpoint import checkpoint

    model.train()
    model.gradient_checkpointing_enable()
    ids_BT = torch.randint(model.config.vocab_size, (batch, length), device=DEVICE)

    def piece_loss(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model.lm_head(hidden).float(), targets, reduction="sum")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        hidden = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
        rows, targets = hidden[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()
        pieces = zip(rows.split(HEAD_PIECE), targets.split(HEAD_PIECE), strict=True)
        total = sum(checkpoint(piece_loss, *piece, use_reentrant=False) for piece in pieces)
        (total / ids_BT.numel()).backward()

    step()
    torch.cuda.reset_peak_memory_stats()
    seconds = median_s(step, warmup=0, repeats=2)
    peak = torch.cuda.max_memory_allocated() / 2**30
    model.zero_grad(set_to_none=True)
    return {"tokens_per_s": batch * length / seconds, "ms": seconds * 1e3, "peak_gib": peak}


@torch.no_grad()
def peer_decode(model: torch.nn.Module, batch: int, context: int) -> dict[str, float]:
    model.eval()
    chunk = max(1, 65536 // context)
    ids_BT = torch.randint(model.config.vocab_size, (chunk, context), device=DEVICE)
    cache = model(input_ids=ids_BT, use_cache=True, logits_to_keep=1).past_key_values
    widen(cache, batch // chunk)
    ids_B1 = torch.randint(model.config.vocab_size, (batch, 1), device=DEVICE)
    positions = torch.full((batch, 1), context, device=DEVICE)

    def step() -> None:
        model(
            input_ids=ids_B1, past_key_values=cache, use_cache=True, logits_to_keep=1, position_ids=positions
        )

    seconds = median_s(step, warmup=3, repeats=10)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"tokens_per_s": batch / seconds, "ms": seconds * 1e3, "peak_gib": peak}


def widen(cache: object, times: int) -> None:
    """Repeat a cache along the batch: prefilling all of it would only take time."""
    cache.linear_cache = [
        x.repeat_interleave(times, 0) if torch.is_tensor(x) else x for x in cache.linear_cache
    ]
    for layer in cache.layers:
        if torch.is_tensor(getattr(layer, "keys", None)) and layer.keys.numel():
            layer.keys, layer.values = (x.repeat_interleave(times, 0) for x in (layer.keys, layer.values))


def run_case(rows: list[dict[str, object]], name: str, call: Callable[[], dict[str, float]]) -> None:
    torch.cuda.reset_peak_memory_stats()
    try:
        figures: dict[str, object] = {key: round(value, 3) for key, value in call().items()}
    except Exception as error:
        figures = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    rows.append({"case": name, **figures})
    print(rows[-1], flush=True)
    gc.collect()
    torch.cuda.empty_cache()


def run_side(rows: list[dict[str, object]], side: str, size: str, parts: list[str]) -> None:
    ours = side == "ours"
    model = our_model(size) if ours else peer_model(size)
    train, decode = (our_training, our_decode) if ours else (peer_training, peer_decode)
    if "decode" in parts:
        run_case(rows, f"{side} decode", lambda: decode(model, DECODE_BATCH, DECODE_CONTEXT))
    if "train" in parts:
        for batch, length in TRAINING_SHAPES:
            run_case(rows, f"{side} train {batch} x {length}", lambda b=batch, n=length: train(model, b, n))
    if "profile" in parts and ours:
        for batch, length in TRAINING_SHAPES:
            run_case(rows, f"profile {batch} x {length}", lambda b=batch, n=length: our_profile(model, b, n))
    if "parity" in parts and ours:
        run_case(rows, f"ours parity {size}", lambda: our_parity(model, 100_000))


def show_ratios(rows: list[dict[str, object]]) -> None:
    by_case = {str(row["case"]): row for row in rows}
    print("| case | peer tokens/s | ours tokens/s | ratio | peer GiB | ours GiB |\n|" + " --- |" * 6)
    for case, row in by_case.items():
        peer = by_case.get(case.replace("ours", "peer"))
        if case.startswith("ours") and "tokens_per_s" in row and peer and "tokens_per_s" in peer:
            ratio = float(row["tokens_per_s"]) / float(peer["tokens_per_s"])
            print(
                f"| {case[5:]} | {peer['tokens_per_s']:.0f} | {row['tokens_per_s']:.0f} | {ratio:.2f} "
                f"| {peer['peak_gib']:.1f} | {row['peak_gib']:.1f} |"
            )


def wrong_rows(rows: list[dict[str, object]]) -> list[str]:
    """Ours that failed, or that found unequal bits. A peer may fail."""
    ours = [row for row in rows if not str(row["case"]).startswith("peer")]
    return [str(row) for row in ours if "error" in row or row.get("unequal")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", choices=["mini", "small"])
    parser.add_argument("--parts", default="train,decode,parity,peer")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs an NVIDIA GPU: torch.cuda.is_available() is False")
    parts = options.parts.split(",")
    config = SIZES[options.size]
    print(
        f"{options.size}: {num_parameters(config) / 1e9:.2f} B parameters, "
        f"{num_active_parameters(config) / 1e9:.2f} B active; {torch.cuda.get_device_name()}, "
        f"torch {torch.__version__}",
        flush=True,
    )
    rows: list[dict[str, object]] = []
    if "peer" in parts:
        run_side(rows, "peer", options.size, parts)
        gc.collect()
        torch.cuda.empty_cache()
    run_side(rows, "ours", options.size, parts)
    show_ratios(rows)
    if os.environ.get("OUT"):
        target = Path(os.environ["OUT"], f"model_{options.size}.json")
        target.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    wrong = wrong_rows(rows)
    print("\n".join(["wrong:", *wrong]) if wrong else "no row of ours failed")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
