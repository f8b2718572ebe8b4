"""Softmax attention and decode against SDPA: python kernels/bench/bench_softmax.py [--tune] [--parts ...]

Legend: T tokens, H heads, G key heads, D head size, B sequences, L places of a sequence.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, product

import torch
from harness import DEVICE, Table, attempt, graph_ms, median_ms, peak_gib, relative_error, require_gpu
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from forklight_kernels.cached_attention import KeyPages
from forklight_kernels.cached_attention import triton_gpu as cached_gpu
from forklight_kernels.cached_attention.triton_gpu import DecodeTile
from forklight_kernels.softmax_attention import triton_gpu as softmax_gpu
from forklight_kernels.softmax_attention.blocks import KEY_GRID, KeyGrid
from forklight_kernels.softmax_attention.triton_tiles import Tile, Tuning, choose_tuning

SIZE = 128
CONTEXT = 81920
CUDNN, FLASH = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION
PARTS = ("decode", "prefill", "backward", "small")
Call = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Equal sequences: `num_sequences` of `length`."""

    heads: int
    key_heads: int
    num_sequences: int
    length: int

    def __str__(self) -> str:
        return f"{self.num_sequences} x {self.length}, {self.heads}/{self.key_heads} heads"

    @property
    def cu_seqlens(self) -> Tensor:
        ends = accumulate([self.length] * self.num_sequences)
        return torch.tensor([0, *ends], dtype=torch.int32, device=DEVICE)


LARGE = Shape(heads=64, key_heads=8, num_sequences=1, length=16384)
FULL = Shape(heads=64, key_heads=64, num_sequences=1, length=16384)
SMALL = (
    Shape(heads=16, key_heads=4, num_sequences=1, length=32768),
    Shape(heads=16, key_heads=4, num_sequences=8, length=4096),
)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def ms_in_graph(call: Call) -> float:
    """Without the host's share, where a graph can hold the call."""
    ms = attempt("graph", lambda: graph_ms([call]))
    return ms if ms is not None else median_ms(call)


# ------------------------------------------------------------------------- decode


def decode_inputs(batch: int) -> tuple[Tensor, KeyPages, Tensor]:
    pages = KeyPages(keys_PGLD=normal(batch, 8, CONTEXT, SIZE), values_PGLD=normal(batch, 8, CONTEXT, SIZE))
    return normal(batch, 64, SIZE), pages, torch.full((batch,), CONTEXT, device=DEVICE, dtype=torch.int32)


def decode_truth(q: Tensor, pages: KeyPages) -> Tensor:
    """Of the last sequence, in float64."""
    keys, values = pages.keys_PGLD[-1].double(), pages.values_PGLD[-1].double()
    scores = q[-1].double().view(8, 8, SIZE) @ keys.transpose(1, 2) * SIZE**-0.5
    return (scores.softmax(-1) @ values).view(64, SIZE)


def shuffled(pages: KeyPages, page_length: int) -> KeyPages:
    """The same memory as pages in random order: other contents for a sequence, equal traffic."""
    batch = len(pages.keys_PGLD)
    keys, values = (
        x.view(-1, 8, page_length, SIZE) for x in (pages.keys_PGLD, pages.values_PGLD)
    )  # any cut will do for timing
    table = torch.randperm(len(keys), device=DEVICE).view(batch, -1).to(torch.int32)
    return KeyPages(keys_PGLD=keys, values_PGLD=values, table_BN=table)


def sdpa_decode(backend: SDPBackend, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q[:, :, None], keys, values, enable_gqa=True)[:, :, 0]


def bench_decode() -> None:
    table = Table(
        "softmax_decode",
        ("batch", "kernel", "ms", "cuDNN ms", "cuDNN/this", "target", "TB/s", "rel err"),
        f"one token, {CONTEXT} places, 64/8 heads; times inside a CUDA graph",
    )
    for batch in (1, 16, 64):
        q, pages, lengths = decode_inputs(batch)
        keys, values = pages.keys_PGLD, pages.values_PGLD
        truth = decode_truth(q, pages)
        whole = KeyGrid(block=KEY_GRID.block, split=CONTEXT)
        decode = cached_gpu.cached_attention
        calls: dict[str, tuple[Call, float | None]] = {
            "SDPA cuDNN, [B, G, L, D]": (partial(sdpa_decode, CUDNN, q, keys, values), None),
            "SDPA cuDNN, [B, L, G, D]": (transposed_peer(CUDNN, q, keys, values), None),
            "SDPA flash": (partial(sdpa_decode, FLASH, q, keys, values), None),
            "ours": (partial(decode, q, pages, lengths), 0.95),
            "ours, pages of 256": (partial(decode, q, shuffled(pages, 256), lengths), 0.95),
            "ours, pages of 64": (partial(decode, q, shuffled(pages, 64), lengths), None),
            "ours, one split": (partial(decode, q, pages, lengths, grid=whole), None),
        }  # fmt: skip
        peer = None
        for name, (call, target) in calls.items():
            ms = attempt(name, partial(ms_in_graph, call))
            if ms is None:
                continue
            if "cuDNN" in name:
                peer = ms if peer is None else min(peer, ms)
            error = None if "pages" in name else relative_error(call()[-1], truth)
            ratio = None if peer is None else peer / ms
            table.add(batch, name, ms, peer, ratio, target, 2 * keys.nbytes / ms / 1e9, error)
        del q, pages, keys, values, calls, call
        torch.cuda.empty_cache()
    table.show()


def transposed_peer(backend: SDPBackend, q: Tensor, keys: Tensor, values: Tensor) -> Call:
    """The cache as [B, L, G, D], which SDPA sees transposed."""
    keys, values = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (keys, values))
    return partial(sdpa_decode, backend, q, keys, values)


# ------------------------------------------------------------------------- prefill and gradients


def packed_inputs(shape: Shape) -> list[Tensor]:
    num_tokens = shape.num_sequences * shape.length
    return [normal(num_tokens, heads, SIZE) for heads in (shape.heads, shape.key_heads, shape.key_heads)]


def sdpa(backend: SDPBackend, shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Packed rows in and out, as equal sequences of one batch."""
    batch = [x.view(shape.num_sequences, shape.length, -1, SIZE).transpose(1, 2) for x in (q, k, v)]
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(*batch, is_causal=True, enable_gqa=True).transpose(1, 2)


def tflops(shape: Shape, ms: float, products: int) -> float:
    """Causal: half of T^2 for each product of the forward (2) or of forward and backward (7)."""
    return products * shape.num_sequences * shape.length**2 * shape.heads * SIZE / ms / 1e9


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def attention_calls(shape: Shape, inputs: Sequence[Tensor]) -> dict[str, Call]:
    cu_seqlens = shape.cu_seqlens
    return {
        "SDPA cuDNN": lambda: sdpa(CUDNN, shape, *inputs),
        "SDPA flash": lambda: sdpa(FLASH, shape, *inputs),
        "ours": lambda: softmax_gpu.softmax_attention(*inputs, cu_seqlens),
    }


def gradients(call: Call, inputs: Sequence[Tensor], pull: Tensor) -> Tensor:
    out = call()
    return torch.autograd.grad(out, inputs, pull.view_as(out))[0]


def add_forward(table: Table, shape: Shape, target: float | None = None) -> None:
    inputs = packed_inputs(shape)
    peers: dict[str, float] = {}
    expected = None
    for name, call in attention_calls(shape, inputs).items():
        ms = attempt(name, partial(median_ms, call))
        if ms is None:
            continue
        peers[name] = ms
        got = call().flatten()
        expected = got if expected is None else expected
        ratio = peers.get("SDPA cuDNN", float("nan")) / ms
        goal = target if name == "ours" else None
        difference = relative_error(got, expected)
        table.add(str(shape), "forward", name, ms, tflops(shape, ms, 2), ratio, goal, None, difference)


def add_gradients(table: Table, shape: Shape) -> None:
    inputs = [x.requires_grad_() for x in packed_inputs(shape)]
    pull = normal(shape.num_sequences * shape.length, shape.heads, SIZE)
    cudnn, expected = float("nan"), None
    for name, call in attention_calls(shape, inputs).items():
        both = partial(gradients, call, inputs, pull)
        modes = {"": contextlib.nullcontext}
        if name == "SDPA flash":
            modes[", deterministic"] = deterministic
        for suffix, mode in modes.items():
            with mode():
                ms = attempt(name + suffix, partial(median_ms, both))
                if ms is None:
                    continue
                memory = peak_gib(both)
                got = both().flatten()
            cudnn = ms if name == "SDPA cuDNN" else cudnn
            expected = got if expected is None else expected
            rate, difference = tflops(shape, ms, 7), relative_error(got, expected)
            table.add(str(shape), "f+b", name + suffix, ms, rate, cudnn / ms, None, memory, difference)


COLUMNS = (
    "shape",
    "what",
    "kernel",
    "ms",
    "TFLOP/s",
    "cuDNN/this",
    "target",
    "GiB",
    "against first (o or dq)",
)


def bench_packed(name: str, jobs: Sequence[Callable[[Table], None]]) -> None:
    table = Table(name=name, columns=COLUMNS, note="causal, bf16; host time included")
    for job in jobs:
        attempt(name, partial(job, table))
        torch.cuda.empty_cache()
    table.show()


# ------------------------------------------------------------------------- sweeps


def compile_all(calls: Sequence[Call]) -> None:
    """Side by side; what fails is told again, and left out, when it is timed."""

    def silently(call: Call) -> None:
        with contextlib.suppress(Exception):
            call()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(silently, calls))
    torch.cuda.synchronize()


def sweep(table: Table, what: str, calls: dict[str, Call], timer: Callable[[Call], float]) -> None:
    compile_all(list(calls.values()))
    times = {}
    for name, call in calls.items():
        ms = attempt(f"{what} {name}", partial(timer, call))
        if ms is not None:
            times[name] = ms
            table.add(what, name, ms)
    if times:
        best = min(times, key=times.__getitem__)
        table.add(what, f"BEST {best}", times[best])


def tune_decode(table: Table) -> None:
    for batch in (1, 16):
        q, pages, lengths = decode_inputs(batch)

        def call(grid: KeyGrid, tile: DecodeTile, args: tuple[Tensor, KeyPages, Tensor]) -> Tensor:
            return cached_gpu.cached_attention(*args, grid=grid, tile=tile)

        args = (q, pages, lengths)
        tiles = [
            (64, 4, 2),
            (64, 4, 3),
            (64, 4, 4),
            (64, 4, 5),
            (64, 2, 3),
            (64, 8, 3),
            (128, 4, 2),
            (128, 4, 3),
            (128, 8, 2),
        ]
        splits = (1024, 2048, 4096, 8192)
        if batch > 1:
            tiles = [tile for tile in tiles if tile[1:] in ((4, 2), (4, 3), (4, 4))]
        calls = {
            f"block {block} split {split} warps {warps} stages {stages}": partial(
                call, KeyGrid(block=block, split=split), DecodeTile(warps=warps, stages=stages), args
            )
            for (block, warps, stages), split in product(tiles, splits)
        }
        sweep(table, f"decode batch {batch}", calls, ms_in_graph)
        del q, pages, lengths, args, calls
        torch.cuda.empty_cache()


def tune_forward(table: Table) -> None:
    inputs, cu_seqlens = packed_inputs(LARGE), LARGE.cu_seqlens
    other = choose_tuning(torch.bfloat16, LARGE.length)

    def call(tile: Tile, grid: KeyGrid) -> Tensor:
        tuning = Tuning(
            forward=tile, key_gradient=other.key_gradient, query_gradient=other.query_gradient, grid=grid
        )
        return softmax_gpu.softmax_attention(*inputs, cu_seqlens, tuning)

    tiles = [
        (64, 128, 8, 2),
        (64, 128, 8, 3),
        (64, 128, 8, 4),
        (64, 64, 4, 2),
        (64, 64, 4, 3),
        (128, 128, 8, 2),
        (128, 64, 4, 2),
    ]
    grids = [(tile, 4096) for tile in tiles]
    grids += [(tile, split) for tile in tiles[1::4] for split in (1024, 2048, 8192, 16384)]
    calls = {
        f"block {block} split {split} rows {rows} warps {warps} stages {stages}": partial(
            call, Tile(rows=rows, warps=warps, stages=stages), KeyGrid(block=block, split=split)
        )
        for (block, rows, warps, stages), split in grids
    }
    sweep(table, "prefill 16K", calls, median_ms)


def tune_backward(table: Table) -> None:
    inputs = [x.requires_grad_() for x in packed_inputs(LARGE)]
    cu_seqlens, shipped = LARGE.cu_seqlens, choose_tuning(torch.bfloat16, LARGE.length)
    pull = normal(LARGE.length, LARGE.heads, SIZE)

    def call(key: Tile, query: Tile) -> Tensor:
        tuning = Tuning(forward=shipped.forward, key_gradient=key, query_gradient=query)
        return gradients(lambda: softmax_gpu.softmax_attention(*inputs, cu_seqlens, tuning), inputs, pull)

    def named(rows: int, step: int, warps: int, stages: int) -> tuple[str, Tile]:
        tile = Tile(rows=rows, step=step, warps=warps, stages=stages)
        return f"rows {rows} step {step} warps {warps} stages {stages}", tile

    keys = [
        (128, 64, 8, 2),
        (128, 64, 8, 3),
        (128, 32, 8, 2),
        (128, 32, 8, 3),
        (64, 64, 4, 2),
        (64, 32, 4, 3),
    ]
    queries = [(128, 64, 8, 2), (128, 64, 8, 3), (128, 32, 8, 3), (64, 64, 4, 2), (64, 128, 8, 2)]
    for what, is_key, shapes in (("dk dv", True, keys), ("dq", False, queries)):
        calls = {}
        for shape in shapes:
            name, tile = named(*shape)
            pair = (tile, shipped.query_gradient) if is_key else (shipped.key_gradient, tile)
            calls[name] = partial(call, *pair)
        sweep(table, f"f+b 16K, {what}", calls, median_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="sweep tiles and key grids instead")
    parser.add_argument("--parts", default=",".join(PARTS), help="of decode, prefill, backward, small")
    arguments = parser.parse_args()
    require_gpu()
    parts = arguments.parts.split(",")
    if arguments.tune:
        table = Table(name="softmax_tune", columns=("what", "configuration", "ms"))
        for part, job in (("decode", tune_decode), ("prefill", tune_forward), ("backward", tune_backward)):
            if part in parts:
                attempt(part, partial(job, table))
                torch.cuda.empty_cache()
        table.show()
        return
    if "decode" in parts:
        attempt("decode", bench_decode)
    jobs: list[Callable[[Table], None]] = []
    if "prefill" in parts:
        jobs.append(partial(add_forward, shape=LARGE, target=0.75))
    if "backward" in parts:
        jobs += [partial(add_gradients, shape=shape) for shape in (LARGE, FULL)]
    if "small" in parts:
        jobs += [partial(add_forward, shape=shape) for shape in SMALL]
        jobs += [partial(add_gradients, shape=shape) for shape in SMALL]
    if jobs:
        bench_packed("softmax_packed", jobs)


if __name__ == "__main__":
    main()
