"""The row kernels against copy bandwidth and against torch.compile of their definitions.

    python kernels/bench/bench_rows.py [--tune]

Every call is timed inside a CUDA graph; `backward` is a graph of forward and backward, less the forward's.
Legend: T tokens, D width, H query heads, G key heads.
"""

import argparse
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from harness import DEVICE, Table, attempt, copy_bytes_per_s, graph_ms, require_gpu
from torch import Tensor

from forklight_kernels import gated_norm, rms_norm
from forklight_kernels.gated_norm import naive as naive_gated_norm
from forklight_kernels.rms_norm import naive as naive_rms_norm
from forklight_kernels.rope import rope_pair
from forklight_kernels.rope.frequencies import rotary_frequencies

EPS, THETA, ROTARY = 1e-5, 1e7, 64
TARGET_OF_COPY = 0.85
DECODE_ROWS = 64
GRAPH_BYTES = 1.5e9
"""A graph's calls go over different buffers, together of this size: more than the L2 cache holds."""

Op = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op, its peer, its inputs by number of tokens, and how often x's bytes move forward and back."""

    name: str
    ours: Op
    peer: Op
    inputs: Callable[[int], list[Tensor]]
    num_tokens: int
    moved: tuple[int, int]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)


def rope_formula(q: Tensor, k: Tensor, positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, vectorised: its loop over pairs would be the compiler's burden."""
    angle = (positions.to(torch.float32)[:, None] * frequencies)[:, None, :]
    cos, sin, half = torch.cos(angle), torch.sin(angle), ROTARY // 2
    turned = []
    for x in (q, k):
        first, second = x[..., :half].float(), x[..., half:ROTARY].float()
        parts = (first * cos - second * sin, second * cos + first * sin)
        turned.append(torch.cat([*(part.to(x.dtype) for part in parts), x[..., ROTARY:]], dim=-1))
    return turned[0], turned[1]


def cases() -> Iterator[Case]:
    for num_tokens, width, heads, keys in ((32_768, 2048, 16, 4), (8192, 6144, 64, 8)):
        weight = randn(width).requires_grad_()
        yield Case(
            name=f"rms_norm {width}",
            ours=lambda x, w=weight: rms_norm(x, w, EPS),
            peer=lambda x, w=weight: naive_rms_norm.rms_norm(x, w, EPS),
            inputs=lambda rows, d=width: [randn(rows, d)],
            num_tokens=num_tokens,
            moved=(2, 3),
        )
        yield Case(
            name=f"gated_norm {width}",
            ours=lambda x, gate, w=weight: gated_norm(x, gate, w, EPS),
            peer=lambda x, gate, w=weight: naive_gated_norm.gated_norm(x, gate, w, EPS),
            inputs=lambda rows, d=width: [randn(rows, d), randn(rows, d)],
            num_tokens=num_tokens,
            moved=(3, 5),
        )
        positions = torch.arange(num_tokens, device=DEVICE)
        frequencies = rotary_frequencies(ROTARY, THETA, positions.device)
        yield Case(
            name=f"rope {heads}+{keys}",
            ours=lambda q, k, p=positions: rope_pair(q, k, p[: len(q)], ROTARY, THETA),
            peer=lambda q, k, p=positions, f=frequencies: rope_formula(q, k, p[: len(q)], f),
            inputs=lambda rows, h=heads, g=keys: [randn(rows, h, 128), randn(rows, g, 128)],
            num_tokens=num_tokens,
            moved=(2, 2),
        )


def forward_ms(op: Op, copies: list[list[Tensor]]) -> float:
    return graph_ms([partial(op, *inputs) for inputs in copies])


def both_ms(op: Op, copies: list[list[Tensor]]) -> float:
    def both(inputs: list[Tensor], pulls: list[Tensor]) -> None:
        outputs = op(*inputs)
        torch.autograd.grad([outputs] if isinstance(outputs, Tensor) else outputs, inputs, pulls)

    return graph_ms([partial(both, inputs, pulls_of(op, inputs)) for inputs in copies])


def pulls_of(op: Op, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of the outputs."""
    outputs = op(*inputs)
    return [torch.randn_like(each) for each in ([outputs] if isinstance(outputs, Tensor) else outputs)]


def copies_of(case: Case, rows: int) -> list[list[Tensor]]:
    one = case.inputs(rows)
    num_copies = max(2, min(50, int(GRAPH_BYTES / (2 * case.moved[0] * one[0].nbytes))))
    sets = [one] + [case.inputs(rows) for _ in range(num_copies - 1)]
    for value in itertools.chain.from_iterable(sets):
        torch._dynamo.maybe_mark_dynamic(value, 0)  # the peer is compiled once for both numbers of rows
        value.requires_grad_()
    return sets


def compare() -> None:
    columns = ("op", "pass", "rows", "compiled ms", "ours ms", "TB/s", "of copy", "target", "compiled / ours")
    table = Table(name="rows", columns=columns, note="CUDA graphs; `backward` = both - forward")
    for case in cases():
        peer = torch.compile(case.peer)
        copies = copies_of(case, case.num_tokens)
        size = sum(value.nbytes for value in copies[0])
        size = size if case.name.startswith("rope") else copies[0][0].nbytes
        times = []
        for op in (case.ours, peer):
            forward = attempt(f"{case.name} forward", partial(forward_ms, op, copies))
            both = attempt(f"{case.name} backward", partial(both_ms, op, copies))
            times.append((forward, both - forward if forward and both else None))
        for number, label in enumerate(("forward", "backward")):
            add_row(table, (case.name, label, case.num_tokens), times, number, case.moved[number] * size)
        copies = copies_of(case, DECODE_ROWS)
        times = [
            (attempt(f"{case.name} decode", partial(forward_ms, op, copies)),) for op in (case.ours, peer)
        ]
        add_row(table, (case.name, "forward", DECODE_ROWS), times, 0, None)
    table.show()


def add_row(table: Table, labels: tuple[object, ...], times: list, number: int, moved: float | None) -> None:
    ours, peer = times[0][number], times[1][number]
    rate = moved / (ours * 1e-3) if moved and ours else None
    share = rate / copy_bytes_per_s() if rate else None
    ratio = peer / ours if ours and peer else None
    table.add(*labels, peer, ours, rate and rate / 1e12, share, TARGET_OF_COPY if moved else None, ratio)


def tune() -> None:
    """The best tiles by shape. Compiles in threads first."""
    for num_rows, width in ((32_768, 2048), (8192, 6144), (8192, 8192)):
        for has_gate in (False, True):
            tune_norm(num_rows, width, has_gate)
    tune_rope()


def tune_norm(num_rows: int, width: int, has_gate: bool) -> None:
    from forklight_kernels.rms_norm.triton_rows import run_backward, run_forward, tile_for

    num_copies = 4
    x, dy = ([randn(num_rows, width) for _ in range(num_copies)] for _ in range(2))
    gates = [randn(num_rows, width) if has_gate else None for _ in range(num_copies)]
    weight, start = randn(width), tile_for(width, has_gate)
    _, inverse = run_forward(x[0], gates[0], weight, EPS, None)

    def forward(tile: object) -> list[Callable[[], object]]:
        return [partial(run_forward, a, gate, weight, EPS, tile) for a, gate in zip(x, gates, strict=True)]

    def backward(tile: object) -> list[Callable[[], object]]:
        return [
            partial(run_backward, b, a, gate, weight, inverse, tile)
            for a, b, gate in zip(x, dy, gates, strict=True)
        ]

    warps = [max(2, width // 1024), max(4, width // 512), max(8, width // 256)]
    warps = sorted({1 << (number - 1).bit_length() for number in warps if number <= 32})
    rows = (1, 2, 4, 8)
    forward_tiles = [
        replace(start, forward_warps=w, rows_per_program=r) for w, r in itertools.product(warps, rows)
    ]
    backward_tiles = [
        replace(start, backward_warps=w, backward_stages=s, programs_per_multiprocessor=p)
        for w, s, p in itertools.product(warps, (1, 2, 3), (1, 2, 4, 6))
    ]
    label = f"{'gated' if has_gate else 'rms'} {num_rows} x {width}"
    moved = x[0].nbytes * (3 if has_gate else 2)
    sweep(f"{label} forward", forward_tiles, forward, moved, len(rows))
    sweep(f"{label} backward", backward_tiles, backward, x[0].nbytes * (5 if has_gate else 3), 4)


def tune_rope() -> None:
    from forklight_kernels.rope import triton_gpu as gpu_rope

    positions = torch.arange(32_768, device=DEVICE)
    for heads, keys in ((16, 4), (64, 8)):
        sets = [(randn(32_768, heads, 128), randn(32_768, keys, 128)) for _ in range(2)]
        tiles = [
            gpu_rope.RopeTile(elements=elements, elements_per_warp=per_warp)
            for elements, per_warp in itertools.product((1024, 2048, 4096, 8192), (256, 512, 1024))
        ]

        def calls(tile: object, sets: list = sets) -> list[Callable[[], object]]:
            return [partial(gpu_rope.rope, pair, positions, ROTARY, THETA, tile) for pair in sets]

        moved = 2 * sum(value.nbytes for value in sets[0])
        sweep(f"rope {heads}+{keys} x 32768 forward", tiles, calls, moved)


def sweep(label: str, tiles: list, calls: Callable, moved: float, per_kernel: int = 1) -> None:
    """Print the five best tiles. All kernels are compiled at once first; `per_kernel` tiles share one."""
    with torch.no_grad():
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda tile: attempt(f"{label} {tile}", calls(tile)[0]), tiles[::per_kernel]))
        torch.cuda.synchronize()
        timed = [(attempt(f"{label} {tile}", partial(graph_ms, calls(tile))), tile) for tile in tiles]
    timed = sorted(((ms, tile) for ms, tile in timed if ms), key=lambda entry: entry[0])
    print(f"\n{label}: {len(timed)} of {len(tiles)} tiles ran", flush=True)
    for ms, tile in timed[:5]:
        share = moved / (ms * 1e-3) / copy_bytes_per_s()
        print(f"  {ms:.4f} ms, {share:.2f} of copy: {tile}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="sweep the tiles instead")
    options = parser.parse_args()
    require_gpu()
    if options.tune:
        tune()
    else:
        compare()
