"""The LM head against liger and against a chunked torch form; stored logits and the sampler at decode sizes.

    python kernels/bench/bench_head.py [--tune]

Peak memory is above the inputs forward, above the inputs and the gradients forward and backward.
Legend: T tokens, D width, V vocabulary, B sequences.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from harness import DEVICE, Table, attempt, copy_bytes_per_s, graph_ms, median_ms, peak_gib, require_gpu
from torch import Tensor

from forklight_kernels import SamplingRequest, sampler, token_stats
from forklight_kernels.token_stats import head_logits, logit_stats, triton_gpu, triton_gradient
from forklight_kernels.triton_tiles import Tile

PUBLISHED, SMALL = (8192, 6144, 200064), (32768, 2048, 65536)
NUM_EXACT = 512
BATCHES = (1, 16, 64, 256)

Head = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Operands of one shape, a pull for each output, and the exact log-probabilities of the first tokens."""

    hidden_TD: Tensor
    weight_VD: Tensor
    targets_T: Tensor
    pull_T: Tensor
    exact_T: Tensor

    @property
    def flops(self) -> float:
        return 2.0 * len(self.targets_T) * self.weight_VD.numel()


def problem(shape: tuple[int, int, int]) -> Problem:
    num_tokens, depth, vocab_size = shape
    torch.manual_seed(0)
    hidden_TD = torch.randn(num_tokens, depth, device=DEVICE, dtype=torch.bfloat16)
    weight_VD = torch.empty(vocab_size, depth, device=DEVICE, dtype=torch.bfloat16).normal_(std=0.02)
    targets_T = torch.randint(vocab_size, (num_tokens,), device=DEVICE)
    pieces = [
        torch.log_softmax(
            torch.cat([some.double() @ part.double().t() for part in weight_VD.split(25008)], 1), -1
        )
        .gather(1, wanted[:, None])
        .squeeze(1)
        for some, wanted in zip(
            hidden_TD[:NUM_EXACT].split(128), targets_T[:NUM_EXACT].split(128), strict=True
        )
    ]
    torch.cuda.empty_cache()
    return Problem(
        hidden_TD=hidden_TD,
        weight_VD=weight_VD,
        targets_T=targets_T,
        pull_T=torch.randn(num_tokens, device=DEVICE),
        exact_T=torch.cat(pieces),
    )


class _Chunked(torch.autograd.Function):
    """fp32 logits of some tokens at a time by torch's product, computed again backward; the rest compiled."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, size):
        pieces = zip(hidden.split(size), targets.split(size), strict=True)
        outs = [_statistics(torch.mm(h, weight.t(), out_dtype=torch.float32), y) for h, y in pieces]
        logprobs, entropies, normalizers = (torch.cat(part) for part in zip(*outs, strict=True))
        ctx.save_for_backward(hidden, weight, targets, normalizers, entropies)
        ctx.size = size
        return logprobs, entropies

    @staticmethod
    def backward(ctx, dlogprobs, dentropies):
        hidden, weight, *rows = ctx.saved_tensors
        dhidden = torch.empty_like(hidden)
        dweight = torch.zeros(weight.shape, device=weight.device)
        for start in range(0, len(hidden), ctx.size):
            part = slice(start, start + ctx.size)
            logits = torch.mm(hidden[part], weight.t(), out_dtype=torch.float32)
            dz = _pulled(logits, *(row[part] for row in (*rows, dlogprobs, dentropies)))
            del logits
            torch.mm(dz, weight, out=dhidden[part])
            torch.addmm(dweight, dz.t(), hidden[part], out_dtype=torch.float32, out=dweight)
        return dhidden, dweight.to(weight.dtype), None, None


@partial(torch.compile, dynamic=False)
def _statistics(logits, targets):
    normalizer = torch.logsumexp(logits, -1)
    entropy = normalizer - (torch.exp(logits - normalizer[:, None]) * logits).sum(-1)
    return logits.gather(1, targets[:, None])[:, 0] - normalizer, entropy, normalizer


@partial(torch.compile, dynamic=False)
def _pulled(logits, targets, normalizer, entropy, dlogprob, dentropy):
    logp = logits - normalizer[:, None]
    is_target = (torch.arange(logits.shape[1], device=logits.device)[None, :] == targets[:, None]).float()
    spread = dentropy[:, None] * logp.exp() * (logp + entropy[:, None])
    return (dlogprob[:, None] * (is_target - logp.exp()) - spread).to(torch.bfloat16)


def peers(case: Problem) -> Iterator[tuple[str, Head]]:
    """Ours twice: as CISPO differentiates it, and with the entropy's gradient too."""
    yield "ours, log-prob gradient", lambda h, w: token_stats(h, w, case.targets_T)[0]
    yield "ours, both gradients", lambda h, w: token_stats(h, w, case.targets_T)
    for chunks in (8, 1):
        yield f"liger, chunk_mem_const={chunks}, no entropy", _liger(case, chunks)
    yield "torch chunks of 2048", lambda h, w: _Chunked.apply(h, w, case.targets_T, 2048)


def _liger(case: Problem, chunks: int) -> Head:
    def head(hidden: Tensor, weight: Tensor) -> Tensor:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        return -liger_fused_linear_cross_entropy(
            hidden, weight, case.targets_T, reduction="none", chunk_mem_const=chunks
        )

    return head


def measure(case: Problem, head: Head) -> tuple[float, ...]:
    """Milliseconds forward and forward with backward, peaks of both, largest error of a log-probability."""
    hidden, weight = (tensor.detach().requires_grad_() for tensor in (case.hidden_TD, case.weight_VD))

    def forward() -> Tensor | tuple[Tensor, Tensor]:
        with torch.no_grad():
            return head(hidden, weight)

    def step() -> tuple[Tensor, ...]:
        out = head(hidden, weight)
        outputs = out if isinstance(out, tuple) else (out,)
        return torch.autograd.grad(outputs, (hidden, weight), [case.pull_T] * len(outputs))

    out = forward()
    logprobs_T = out[0] if isinstance(out, tuple) else out
    error = float((logprobs_T[:NUM_EXACT].double() - case.exact_T).abs().max())
    del out, logprobs_T
    forward_ms, forward_gib = median_ms(forward, budget_s=0.6), peak_gib(forward)
    step_ms = median_ms(step, budget_s=1.2, warmup=1)
    step_gib = peak_gib(step) - (hidden.nbytes + weight.nbytes) / 2**30
    torch.cuda.empty_cache()
    return forward_ms, step_ms, forward_gib, step_gib, error


def bench_training(name: str, shape: tuple[int, int, int], goal: str) -> None:
    case = problem(shape)
    columns = (
        *("form", "fwd ms", "/ ours", "f+b ms", "/ ours", "fwd TFLOP/s", "f+b TFLOP/s (6TDV)"),
        *("GiB fwd", "GiB f+b", "max |dlogp|"),
    )
    table = Table(name=name, columns=columns, note=f"tokens, width, vocabulary {shape}; {goal}")
    ours: tuple[float, float] | None = None
    for label, head in peers(case):
        result = attempt(label, partial(measure, case, head))
        if result is None:
            table.add(label, *[None] * 9)
            continue
        forward_ms, step_ms, *rest = result
        ours = ours or (forward_ms, step_ms)
        ratios = forward_ms / ours[0], step_ms / ours[1]
        rates = case.flops / forward_ms / 1e9, 3 * case.flops / step_ms / 1e9
        table.add(label, forward_ms, ratios[0], step_ms, ratios[1], *rates, *rest)
    table.show()


def request(num_rows: int, top_p: float, is_filtered: bool | None) -> SamplingRequest:
    return SamplingRequest(
        temperatures_B=torch.full((num_rows,), 0.9, device=DEVICE),
        top_ps_B=torch.full((num_rows,), top_p, device=DEVICE),
        seeds_B=torch.arange(num_rows, device=DEVICE),
        positions_B=torch.arange(num_rows, device=DEVICE),
        is_filtered=is_filtered,
    )


def torch_sample(logits_BV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """What a plain engine does without a filter: softmax, exponential race, gather."""
    logprobs_BV = torch.log_softmax(logits_BV / temperature, -1)
    ids_B = (logprobs_BV.exp() / torch.empty_like(logprobs_BV).exponential_()).argmax(-1)
    return ids_B, logprobs_BV.gather(1, ids_B[:, None])


def bench_decode() -> None:
    _, depth, vocab_size = PUBLISHED
    weight_VD = torch.empty(vocab_size, depth, device=DEVICE, dtype=torch.bfloat16).normal_(std=0.02)
    table = Table(
        name="head_decode",
        columns=(
            *("batch", "floor ms", "cuBLAS ms", "head_logits ms", "cuBLAS / ours", "stats ms", "sampler ms"),
            *("unknown filter ms", "top_p 0.95 ms", "torch sampling ms"),
        ),
        note="graphs; floor: weight bytes at copy rate; logits of deviation 1.6; target cuBLAS / ours 0.95",
    )
    for num_rows in BATCHES:
        hidden_BD = torch.randn(num_rows, depth, device=DEVICE, dtype=torch.bfloat16)
        logits_BV = head_logits(hidden_BD, weight_VD)
        ids_B = torch.zeros(num_rows, device=DEVICE, dtype=torch.int64)
        calls: list[Callable[[], object]] = [
            partial(torch.mm, hidden_BD, weight_VD.t(), out_dtype=torch.float32),
            partial(head_logits, hidden_BD, weight_VD),
            partial(logit_stats, logits_BV, ids_B, 0.9),
            partial(sampler, logits_BV, request(num_rows, 1.0, False)),
            partial(sampler, logits_BV, request(num_rows, 1.0, None)),
            partial(sampler, logits_BV, request(num_rows, 0.95, None)),
            partial(torch_sample, logits_BV, 0.9),
        ]
        times = [attempt(f"batch {num_rows}", partial(graph_ms, [call] * 4)) for call in calls]
        ratio = times[0] / times[1] if times[0] and times[1] else None
        table.add(num_rows, weight_VD.nbytes / copy_bytes_per_s() * 1e3, *times[:2], ratio, *times[2:])
    table.show()


def tile(rows: int, columns: int, depth: int, num_warps: int, num_stages: int, parts: int = 1) -> Tile:
    return Tile(
        rows=rows, columns=columns, depth=depth, num_warps=num_warps, num_stages=num_stages, parts=parts
    )


FORWARD_TILES = (
    tile(128, 256, 64, 8, 4), tile(128, 256, 64, 8, 3), tile(128, 256, 128, 8, 2), tile(64, 256, 64, 4, 4),
)  # fmt: skip
GRADIENT_TILES = (tile(128, 256, 64, 8, 3, 2), tile(128, 256, 64, 8, 4, 2))
LOGIT_TILES = {
    16: (tile(16, 128, 128, 4, 5), tile(16, 128, 128, 4, 4), tile(16, 64, 256, 4, 4), tile(16, 128, 64, 4, 8),
         replace(tile(16, 64, 128, 4, 5), programs=2)),
    64: (tile(64, 256, 64, 4, 4, 2), tile(64, 128, 128, 4, 3), tile(64, 128, 64, 4, 6),
         replace(tile(64, 128, 64, 4, 4), programs=2), replace(tile(64, 64, 128, 4, 3), programs=2)),
    256: (tile(128, 256, 64, 8, 3, 2), tile(128, 128, 64, 8, 4), tile(128, 128, 128, 8, 3),
          tile(64, 256, 64, 4, 4, 2)),
}  # fmt: skip


def say(label: str, call: Callable[[], float]) -> None:
    print(f"{label}: {attempt(label, call)}", flush=True)


def tune_forward(case: Problem, groups: tuple[int, ...]) -> None:
    shapes = [*FORWARD_TILES, *(replace(FORWARD_TILES[0], group=group) for group in groups)]
    for shape in shapes:
        call = partial(triton_gpu.head_statistics, case.hidden_TD, case.weight_VD, case.targets_T, 1.0, shape)
        say(f"forward {shown(shape)} ms", partial(median_ms, call))


def tune_gradient(case: Problem, widths: tuple[int, ...]) -> None:
    first, *others = widths
    runs = [(shape, first) for shape in GRADIENT_TILES]
    runs += [(replace(GRADIENT_TILES[0], group=group), first) for group in (8, 32)]
    runs += [(GRADIENT_TILES[0], width) for width in others]
    pull = head_pull(case)
    for shape, width in runs:
        call = partial(triton_gradient.head_gradients, pull, (True, True), shape, width)
        say(f"backward {shown(shape)} slice {width} ms", partial(median_ms, call, budget_s=0.5, warmup=1))
    dz_TU = case.hidden_TD.new_empty(len(case.targets_T), first)
    launch = triton_gradient.GradientLaunch(pull=pull, tile=GRADIENT_TILES[0])
    parts: dict[str, Callable[[], object]] = {
        "dz": partial(launch, dz_TU, slice(0, first)),
        "dweight": partial(torch.mm, dz_TU.t(), case.hidden_TD),
        "dhidden": partial(torch.mm, dz_TU, case.weight_VD[:first], out_dtype=torch.float32),
    }
    slice_flops = case.flops * first / len(case.weight_VD)
    for name, call in parts.items():
        say(f"slice {first} {name} TFLOP/s", lambda call=call: slice_flops / median_ms(call) / 1e9)


def head_pull(case: Problem) -> triton_gradient.HeadPull:
    _, entropy_T, normalizer_T = triton_gpu.head_statistics(
        case.hidden_TD, case.weight_VD, case.targets_T, 1.0
    )
    return triton_gradient.HeadPull(
        hidden_TD=case.hidden_TD,
        weight_VD=case.weight_VD,
        targets_T=case.targets_T,
        entropy_T=entropy_T,
        normalizer_T=normalizer_T,
        dlogprobs_T=case.pull_T,
        dentropy_T=None,
        temperature=1.0,
    )


def tune_logits(case: Problem) -> None:
    for num_rows, shapes in LOGIT_TILES.items():
        for shape in shapes:
            call = partial(triton_gpu.head_logits, case.hidden_TD[:num_rows], case.weight_VD, tile=shape)
            say(f"logits {num_rows} {shown(shape)} ms", partial(graph_ms, [call] * 4))


def shown(shape: Tile) -> str:
    sizes = (shape.rows, shape.columns, shape.depth, shape.num_warps, shape.num_stages, shape.parts)
    return f"{sizes} x{shape.programs} group {shape.group}"


def tune() -> None:
    case = problem(PUBLISHED)
    tune_forward(case, (8, 32, 64))
    tune_gradient(case, (11776, 12544, 10240, 8192, 6144))
    tune_logits(case)
    del case
    small = problem(SMALL)
    tune_forward(small, (8, 32))
    tune_gradient(small, (4096, 2048, 3072, 6144))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    require_gpu()
    if options.tune:
        tune()
        return
    bench_training("head_published", PUBLISHED, "targets: 30 ms, 115 ms; liger / ours 1.07, 1.15; 0.3 GiB")
    torch.cuda.empty_cache()
    bench_training("head_small", SMALL, "no target of its own")
    torch.cuda.empty_cache()
    bench_decode()


if __name__ == "__main__":
    main()
