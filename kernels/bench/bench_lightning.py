"""Lightning attention and its decode step against their peers, on one GPU.

`python kernels/bench/bench_lightning.py` prints the tables; `--million` adds a row of 1M tokens; `--tune`
sweeps our tiles instead. Peers: fla (chunk_simple_gla, chunks of 64; fused_recurrent_simple_gla) and vLLM's
decode kernel, read as $PEER_DIR/vllm_lightning_attn.py. Decay rates are those of layer 40 of the published
model.
"""

import argparse
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from harness import (
    DEVICE,
    Table,
    attempt,
    graph_ms,
    median_ms,
    peak_gib,
    relative_error,
    require_gpu,
    tune_in_parallel,
)
from lightning_cases import (
    BASE,
    BF16,
    CHUNK,
    DECODE_TARGETS_US,
    HEADS,
    PLAIN,
    SILU,
    SIZE,
    Call,
    apart,
    decode_us,
    joined,
    num_rotated,
    ours,
    slopes,
)
from lightning_tuning import TUNES
from torch import Tensor
from torch.nn.functional import silu

FORWARD_TARGETS = {4096: 1.9, 16384: 2.2, 65536: 2.2, 131072: 2.2, 1048576: 2.2}
GRADIENT_TARGET = "2.3, then 2.8; a third of the memory"
LARGEST_WITH_SILU = 131072
LARGEST_COMPARED = 65536
"""Tokens at which our output is still compared with the peer's."""


def fla(parts: Sequence[Tensor], slopes_H: Tensor) -> Tensor:
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v = (part[None] for part in parts)
    return chunk_simple_gla(q, k, v, g_gamma=-slopes_H, scale=1.0, chunk_size=CHUNK)[0][0]


def gradients(call: Callable[[Sequence[Tensor]], Tensor], leaves: Sequence[Tensor], pull: Tensor) -> None:
    torch.autograd.grad(call(leaves), leaves, pull)


def timed(label: str, call: Call, **how: float) -> float | None:
    return attempt(label, lambda: median_ms(call, **how))


def ratio(peer: float | None, own: float | None) -> float | None:
    return peer / own if peer and own else None


@torch.no_grad()
def largest_row(size: int) -> tuple[object, ...]:
    """Without silu and on tensors of their own: at 1M tokens fla's states leave no room for more."""
    slopes_H = slopes()
    parts = [silu(x, inplace=True) for x in torch.randn(3, size, HEADS, SIZE, device="cuda", dtype=BF16)]
    own = timed(f"ours T={size}", lambda: ours(slopes_H, PLAIN, BASE, parts))
    torch.cuda.empty_cache()
    theirs = timed(f"fla T={size}", lambda: fla(parts, slopes_H))
    return size, theirs, own, ratio(theirs, own), FORWARD_TARGETS.get(size), None, None, None


@torch.no_grad()
def forward_row(size: int) -> tuple[object, ...]:
    if size > LARGEST_WITH_SILU:
        return largest_row(size)
    x_THW, slopes_H = joined(size), slopes()
    active, peer_parts = silu(x_THW).chunk(3, dim=-1), apart(silu(x_THW))
    theirs = timed(f"fla T={size}", lambda: fla(peer_parts, slopes_H))
    own = timed(f"ours T={size}", lambda: ours(slopes_H, PLAIN, BASE, active))
    parts = x_THW.chunk(3, dim=-1)
    with_silu = [
        timed(
            f"silu first={first}", partial(ours, slopes_H, SILU, replace(BASE, activates_first=first), parts)
        )
        for first in (True, False)
    ]
    difference = None
    if theirs and own and size <= LARGEST_COMPARED:
        difference = relative_error(ours(slopes_H, PLAIN, BASE, active), fla(peer_parts, slopes_H))
    return size, theirs, own, ratio(theirs, own), FORWARD_TARGETS.get(size), *with_silu, difference


def forward_table(sizes: Sequence[int]) -> None:
    table = Table(
        name="lightning_forward",
        columns=(
            "T",
            "fla ms",
            "ours ms",
            "fla/ours",
            "target",
            "silu first ms",
            "silu in loads ms",
            "rel. diff",
        ),
        note="64 heads of 128, one sequence; only the silu columns include silu",
    )
    for size in sizes:
        table.add(*forward_row(size))
        torch.cuda.empty_cache()
    table.show()


def gradient_rows(table: Table, size: int) -> None:
    """All from tensors of their own: fla would copy views. Views of one tensor move the same bytes in
    ours."""
    leaves = [part.requires_grad_() for part in apart(joined(size))]
    slopes_H, pull = slopes(), torch.randn(size, HEADS, SIZE, device=DEVICE, dtype=BF16)

    def measure(label: str, call: Callable[[Sequence[Tensor]], Tensor]) -> list[float | None]:
        step = partial(gradients, call, leaves, pull)
        return [timed(label, step), attempt(label, lambda: peak_gib(step))]

    their_ms, their_gib = measure("fla f+b", lambda parts: fla(parts, slopes_H))
    table.add(size, "fla chunk_simple_gla C=64", their_ms, their_gib, None, None, None)
    for name, tiles, form in (
        ("as shipped", BASE, PLAIN),
        ("with silu, first", BASE, SILU),
        ("with silu, in loads", replace(BASE, activates_first=False), SILU),
    ):
        own_ms, own_gib = measure(name, partial(ours, slopes_H, form, tiles))
        target = GRADIENT_TARGET if form is PLAIN else None
        table.add(size, name, own_ms, own_gib, ratio(their_ms, own_ms), ratio(their_gib, own_gib), target)


def gradient_table(sizes: Sequence[int]) -> None:
    table = Table(
        name="lightning_forward_backward",
        columns=("T", "kernel", "ms", "peak GiB", "fla/ours", "fla GiB/ours", "target"),
        note="64 heads of 128, one sequence; peak above the inputs, gradients included",
    )
    for size in sizes:
        gradient_rows(table, size)
        torch.cuda.empty_cache()
    table.show()


def few_heads_row(heads: int, size: int) -> tuple[object, ...]:
    parts, slopes_H, uncut = apart(joined(size, heads)), slopes(heads), replace(BASE, segment_rows=0)
    with torch.no_grad():
        theirs = timed("fla few heads", lambda: fla(parts, slopes_H))
        own = timed("segments", lambda: ours(slopes_H, PLAIN, BASE, parts))
        one = timed("one pass", lambda: ours(slopes_H, PLAIN, uncut, parts))
    leaves, pull = [part.requires_grad_() for part in parts], torch.randn_like(parts[0])
    both = [
        timed(label, partial(gradients, call, leaves, pull))
        for label, call in (
            ("fla f+b", lambda each: fla(each, slopes_H)),
            ("segments f+b", partial(ours, slopes_H, PLAIN, BASE)),
        )
    ]
    target = 1.18 if (heads, size) == (8, 131072) else None
    return heads, size, theirs, own, ratio(theirs, own), one, target, *both, ratio(*both)


def few_heads_table() -> None:
    table = Table(
        name="lightning_few_heads",
        columns=(
            "heads", "T", "fla ms", "ours ms", "fla/ours", "one pass ms", "target ms",
            "fla f+b ms", "ours f+b ms", "fla/ours f+b",
        ),
        note="one sequence: ours walks the state first, then all segments at once",
    )  # fmt: skip
    for heads, size in ((8, 131072), (16, 131072), (8, 32768), (16, 32768)):
        table.add(*few_heads_row(heads, size))
        torch.cuda.empty_cache()
    table.show()


@torch.no_grad()
def fla_decode_us(batch: int) -> float:
    from fla.ops.simple_gla import fused_recurrent_simple_gla

    q, k, v = (part[:, None] for part in apart(joined(batch)))
    states = [torch.randn(batch, HEADS, SIZE, SIZE, device=DEVICE) for _ in range(num_rotated(batch))]
    call = partial(fused_recurrent_simple_gla, q, k, v, g_gamma=-slopes(), scale=1.0, output_final_state=True)
    return 1e3 * graph_ms([partial(call, initial_state=state) for state in states])


@torch.no_grad()
def vllm_decode_us(batch: int) -> float:
    call, slopes_H = load_vllm().linear_decode_forward_triton, slopes()
    q, k, v = (part[:, :, None] for part in apart(joined(batch)))
    states = [torch.randn(batch, HEADS, SIZE, SIZE, device=DEVICE) for _ in range(num_rotated(batch))]
    slots = torch.arange(batch, device=DEVICE)
    return 1e3 * graph_ms([partial(call, q, k, v, state, slopes_H, slots) for state in states])


def load_vllm() -> types.ModuleType:
    """vLLM's file alone; what it imports of vLLM is replaced by the little it uses."""
    import triton
    import triton.language as tl

    path = Path(os.environ.get("PEER_DIR", ".peer")) / "vllm_lightning_attn.py"
    if not path.exists():
        raise FileNotFoundError(path)
    platform = types.SimpleNamespace(
        is_cuda=lambda: True, has_device_capability=lambda *_: True, is_rocm=lambda: False
    )
    for name, content in {
        "vllm": {},
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.v1": {},
        "vllm.v1.attention": {},
        "vllm.v1.attention.backends": {},
        "vllm.v1.attention.backends.utils": {"PAD_SLOT_ID": -1, "NULL_BLOCK_ID": 0},
    }.items():
        module = types.ModuleType(name)
        module.__path__ = []
        module.__dict__.update(content)
        sys.modules.setdefault(name, module)
    spec = importlib.util.spec_from_file_location("vllm_lightning_attn", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["vllm_lightning_attn"] = module
    spec.loader.exec_module(module)
    return module


def decode_table() -> None:
    table = Table(
        name="lightning_decode",
        columns=(
            "batch",
            "fla us",
            "vLLM us",
            "ours us",
            "best peer/ours",
            "target us",
            "at place 31",
            "all close",
        ),
        note="64 heads of 128, CUDA graph; ours includes silu, its places are spread over the chunk",
    )
    for batch, target in DECODE_TARGETS_US.items():
        peers = [
            attempt("fla decode", partial(fla_decode_us, batch)),
            attempt("vLLM decode", partial(vllm_decode_us, batch)),
        ]
        own, middle, close = (
            attempt(f"ours, place {place}", partial(decode_us, batch, place)) for place in (None, 31, 63)
        )
        best = min((us for us in peers if us), default=None)
        table.add(batch, *peers, own, ratio(best, own), target, middle, close)
        torch.cuda.empty_cache()
    table.show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="sweep our tiles instead of comparing")
    parser.add_argument("--million", action="store_true", help="a row of 1M tokens too")
    parser.add_argument("--parts", default="forward,gradient,few,decode")
    arguments = parser.parse_args()
    require_gpu()
    parts = arguments.parts.split(",")
    if arguments.tune:
        for part in parts:
            attempt(part, TUNES[part])
        return
    tune_in_parallel()
    if "forward" in parts:  # a representative length first: that is where the peer's tuner looks
        forward_table([16384, 4096, 65536, 131072] + [1048576] * arguments.million)
    if "gradient" in parts:
        gradient_table([16384, 65536, 131072])
    if "few" in parts:
        few_heads_table()
    if "decode" in parts:
        decode_table()


if __name__ == "__main__":
    main()
