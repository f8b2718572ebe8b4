"""Sizes, inputs and torch's own forms of the product and expert benchmarks.

Legend: T tokens, D width, N width out, E experts, K experts a token, I expert width.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from harness import DEVICE, graph_ms, median_ms
from torch import Tensor
from torch.nn.functional import silu

from forklight_kernels import moe_experts
from forklight_kernels.moe_experts import triton_gpu as experts_gpu

DENSE_SHAPES = (
    (6144, 24576),
    (8192, 6144),
    (9216, 6144),
    (6144, 1024),
    (2048, 6144),
    (2048, 2048),
    (2048, 512),
)
DENSE_ROWS = (1, 16, 64, 256, 2048, 8192)
MINIMAX, SMALL = (32, 6144, 9216), (32, 2048, 768)
"""Experts, width, expert width."""
BEYOND_L2_BYTES = 200e6
"""Calls of one graph rotate over so many bytes of weights, so that none stay in the L2 cache."""
grouped_mm = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm


def randn(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).mul_(scale)


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def dense_calls(num_rows: int, shape: tuple[int, int], call: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Milliseconds of a product; of few rows by a graph over several weights."""
    depth, width = shape
    x = randn(num_rows, depth)
    if num_rows > 256:
        weight = randn(width, depth, scale=0.02)
        return median_ms(lambda: call(x, weight), budget_s=0.15)
    copies = max(2, min(128, int(BEYOND_L2_BYTES / (depth * width * 2)) + 1))
    weights = [randn(width, depth, scale=0.02) for _ in range(copies)]
    return graph_ms([partial(call, x, weight) for weight in weights])


def timed_decode(call: Callable[[], object]) -> float:
    return graph_ms([call] * 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One size: stacked matrices for us, w1, w3 and w2 apart for torch; tokens and their routing."""

    x: Tensor
    weights: Tensor
    experts: Tensor
    w13: Tensor
    w2: Tensor

    @property
    def num_hit(self) -> int:
        return int(self.experts.unique().numel())

    def inputs(self) -> experts_gpu.ExpertInputs:
        return experts_gpu.ExpertInputs(
            x_TD=self.x, weights_TK=self.weights, experts_TK=self.experts, w13_EFD=self.w13, w2_EID=self.w2
        )

    def ours(self) -> Tensor:
        return moe_experts(self.x, self.weights, self.experts, self.w13, self.w2)


def make_case(size: tuple[int, int, int], num_tokens: int, like: Case | None = None) -> Case:
    num_experts, width, inner = size
    weights, experts = torch.softmax(torch.randn(num_tokens, num_experts, device=DEVICE), -1).topk(2, -1)
    return Case(
        x=randn(num_tokens, width),
        weights=weights / weights.sum(-1, keepdim=True),
        experts=experts,
        w13=like.w13 if like else randn(num_experts, 2 * inner, width, scale=0.01),
        w2=like.w2 if like else randn(num_experts, inner, width, scale=0.01),
    )


def torch_plan(experts: Tensor, num_experts: int, align: int = 16) -> tuple[Tensor, Tensor, int]:
    """Place of each row in a buffer with groups padded to 16 rows, group ends, rows of the buffer."""
    flat = experts.reshape(-1)
    count = torch.bincount(flat, minlength=num_experts)
    padded = (count + align - 1) // align * align
    ends = padded.cumsum(0)
    order = torch.argsort(flat, stable=True)
    start = count.cumsum(0) - count
    rank = torch.arange(flat.numel(), device=flat.device) - start[flat[order]]
    place = torch.empty_like(flat)
    place[order] = rank + (ends - padded)[flat[order]]
    return place, ends.to(torch.int32), int(ends[-1])


def torch_block(x: Tensor, matrices: tuple[Tensor, Tensor, Tensor], weights: Tensor, plan: tuple) -> Tensor:
    place, ends, rows = plan
    w1, w3, w2 = matrices
    buffer = x.new_zeros(rows, x.shape[1]).index_copy(0, place, x.repeat_interleave(weights.shape[1], 0))
    gate = grouped_mm(buffer, w1.transpose(1, 2), offs=ends)
    hidden = silu(gate) * grouped_mm(buffer, w3.transpose(1, 2), offs=ends)
    y = grouped_mm(hidden, w2, offs=ends)
    return (y[place].view(len(x), weights.shape[1], -1) * weights[..., None]).sum(1)


def torch_call(case: Case, block: Callable[..., Tensor]) -> Callable[[], Tensor]:
    inner = case.w2.shape[1]
    matrices = case.w13[:, :inner].contiguous(), case.w13[:, inner:].contiguous(), case.w2
    plan = torch_plan(case.experts, len(case.w2))
    return partial(block, case.x, matrices, case.weights.bfloat16(), plan)
