"""Experts spread over processes: every number is the one that a single process with all experts computes.

Legend: T tokens, K slots a token, D width, E experts, I expert width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from forklight_kernels import (
    Backend,
    ExpertSpread,
    Residual,
    moe_experts,
    moe_experts_spread,
    using_backend,
)
from forklight_kernels.backend import has_triton
from forklight_kernels.recompute import Result, twice_run
from kernels.tests.trips import Meeting, Traveller

NEEDS_INTERPRETER = pytest.mark.skipif(
    not has_triton() or torch.cuda.is_available(),
    reason="Triton's interpreter is chosen where there is no GPU",
)
ALPHA = 3.5
WIDTH, INNER = 32, 16
"""Rows that fill a CPU's vector registers: in bf16 it adds what is left over in another way."""
NAMES = ("x", "weights", "residual", "w13", "w2")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """The tokens of several processes one after another, and all experts."""

    lengths: Sequence[int]
    experts_TK: Tensor
    tensors: dict[str, Tensor]
    pull_TD: Tensor
    beta: float

    @property
    def num_experts(self) -> int:
        return len(self.tensors["w2"])


def case(
    lengths: Sequence[int], experts_TK: Tensor, dtype: torch.dtype, beta: float = 1.0, num_experts: int = 8
) -> Case:
    num_tokens, width, inner = sum(lengths), WIDTH, INNER
    randn = [
        torch.randn(num_tokens, width),
        torch.softmax(torch.randn(num_tokens, experts_TK.shape[1]), -1),
        torch.randn(num_tokens, width),
        torch.randn(num_experts, 2 * inner, width) * 0.3,
        torch.randn(num_experts, inner, width) * 0.3,
    ]
    tensors = {name: each.to(dtype) for name, each in zip(NAMES, randn, strict=True)}
    tensors["weights"] = randn[1].to(torch.float64 if dtype == torch.float64 else torch.float32)
    pull_TD = torch.randn(num_tokens, width).to(dtype)
    return Case(lengths=lengths, experts_TK=experts_TK, tensors=tensors, pull_TD=pull_TD, beta=beta)


def whole(inputs: Case) -> dict[str, Tensor]:
    """Output and all gradients of one process."""
    leaves = {name: each.clone().requires_grad_() for name, each in inputs.tensors.items()}
    residual = Residual(x_TD=leaves["residual"], alpha=ALPHA, beta=inputs.beta)
    arguments = (leaves["x"], leaves["weights"], inputs.experts_TK, leaves["w13"], leaves["w2"])
    out_TD = moe_experts(*arguments, residual)
    out_TD.backward(inputs.pull_TD)
    return {"out": out_TD.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def spread(inputs: Case, keeps: frozenset[Result] | None = None) -> dict[str, Tensor]:
    """The same by a process for each of the lengths, put together; with `keeps` in a block run twice."""
    size = len(inputs.lengths)
    meeting = Meeting(size)

    def work(rank: int) -> dict[str, Tensor]:
        return _one(inputs, Traveller(meeting, rank), keeps)

    parts = meeting.run(work)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _one(inputs: Case, traveller: Traveller, keeps: frozenset[Result] | None) -> dict[str, Tensor]:
    rank, size = traveller.rank, traveller.meeting.size
    tokens = slice(sum(inputs.lengths[:rank]), sum(inputs.lengths[: rank + 1]))
    num_experts = inputs.num_experts
    own = slice(rank * num_experts // size, (rank + 1) * num_experts // size)
    places = dict.fromkeys(("x", "weights", "residual"), tokens) | dict.fromkeys(("w13", "w2"), own)
    leaves = {name: each[places[name]].clone().requires_grad_() for name, each in inputs.tensors.items()}

    def run(x: Tensor, residual: Tensor) -> Tensor:
        experts = ExpertSpread(
            num_experts=num_experts,
            w13_EFD=leaves["w13"],
            w2_EID=leaves["w2"],
            start_trip=traveller.start_trip,
        )
        joined = Residual(x_TD=residual, alpha=ALPHA, beta=inputs.beta)
        return moe_experts_spread(x, leaves["weights"], inputs.experts_TK[tokens], experts, joined)

    with torch.no_grad():
        bare_TD = run(leaves["x"], leaves["residual"])
    if keeps is None:
        out_TD = run(leaves["x"], leaves["residual"])
    else:
        out_TD = torch.utils.checkpoint.checkpoint(
            run,
            leaves["x"],
            leaves["residual"],
            use_reentrant=False,
            context_fn=lambda: twice_run(keeps),
        )
    out_TD.backward(inputs.pull_TD[tokens])
    gradients = {name: leaf.grad for name, leaf in leaves.items()}
    return {"out": out_TD.detach(), "bare": bare_TD} | gradients


def distinct(num_tokens: int, top_k: int = 2) -> Tensor:
    """Of a token distinct, as a router's are. Expert 5 is never chosen."""
    scores = torch.rand(num_tokens, 8)
    scores[:, 5] = 2.0
    return scores.argsort(dim=1)[:, :top_k]


def skewed(num_tokens: int) -> Tensor:
    """All to the first process's experts but a few: the others are starved or nearly so."""
    experts_TK = torch.stack([torch.arange(num_tokens) % 2, 1 - torch.arange(num_tokens) % 2], dim=1)
    experts_TK[::5, 1] = 3
    return experts_TK


CASES = {
    "two": ((37, 20), distinct(57)),
    "one without tokens": ((0, 33), distinct(33)),
    "four, two of them starved": ((11, 0, 7, 23), skewed(41)),
    "one slot": ((9, 8), distinct(17, 1)),
    "nobody has tokens": ((0, 0), distinct(0)),
}


def assert_same_bits(got: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    assert torch.equal(got["bare"], truth["out"]), "output without a gradient"
    for name, expected in truth.items():
        assert torch.equal(got[name], expected), name


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
def test_spread_experts_match_the_definition(backend: Backend, name: str) -> None:
    inputs = case(*CASES[name], torch.float64, beta=0.5)
    with using_backend(Backend.NAIVE):
        truth = whole(inputs)
    with using_backend(backend):
        got = spread(inputs)
    for what, expected in truth.items():
        torch.testing.assert_close(got[what], expected, rtol=1e-11, atol=1e-11, msg=what)
    torch.testing.assert_close(got["bare"], truth["out"], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spread_experts_have_the_wholes_bits_gradients_too(dtype: torch.dtype, name: str) -> None:
    inputs = case(*CASES[name], dtype)
    with using_backend(Backend.TORCH):
        assert_same_bits(spread(inputs), whole(inputs))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those of fp32 for every dtype: the interpreter's time is the tiles' size."""
    triton_gpu = pytest.importorskip("forklight_kernels.moe_experts.triton_gpu")
    monkeypatch.setattr(triton_gpu, "STREAM_TILES", ((1 << 30, triton_gpu.EXACT_TILES),))
    monkeypatch.setattr(triton_gpu, "TRAINING_TILES", triton_gpu.EXACT_TILES)
    monkeypatch.setattr(triton_gpu, "GRADIENT_TILE", triton_gpu.EXACT_GRADIENT_TILE)
    triton_gpu.choose_tiles.cache_clear()
    yield
    triton_gpu.choose_tiles.cache_clear()


@NEEDS_INTERPRETER
@pytest.mark.usefixtures("poisoned_memory", "small_tiles")
@pytest.mark.parametrize(
    ("dtype", "keeps"),
    [(torch.float32, frozenset()), (torch.bfloat16, frozenset({Result.EXPERTS}))],
)
def test_spread_experts_have_the_wholes_bits_with_a_gpus_kernels(
    dtype: torch.dtype, keeps: frozenset[Result]
) -> None:
    # Of three processes one has no tokens, and nobody chooses the last one's expert.
    experts_TK = torch.rand(7, 2).argsort(dim=1)
    inputs = case((4, 0, 3), experts_TK, dtype, beta=0.5, num_experts=3)
    with using_backend(Backend.TRITON):
        assert_same_bits(spread(inputs, keeps), whole(inputs))


@NEEDS_INTERPRETER
def test_processes_without_any_tokens_give_zero_gradients_with_a_gpus_kernels() -> None:
    with using_backend(Backend.TRITON):
        got = spread(case((0, 0), distinct(0), torch.float32))
    assert got["w13"].shape == (8, 2 * INNER, WIDTH) and not got["w13"].any() and not got["w2"].any()


def test_an_expert_that_nobody_has_is_refused() -> None:
    experts_TK = distinct(6)
    experts_TK[2, 1] = 8
    with using_backend(Backend.TORCH), pytest.raises(ValueError, match="outside 0 to 7"):
        spread(case((6,), experts_TK, torch.float32))


def test_matrices_of_more_experts_than_there_are_are_refused() -> None:
    x, w13, w2 = torch.randn(3, WIDTH), torch.randn(8, 2 * INNER, WIDTH), torch.randn(8, INNER, WIDTH)
    few = ExpertSpread(num_experts=4, w13_EFD=w13, w2_EID=w2, start_trip=Traveller(Meeting(1), 0).start_trip)
    with pytest.raises(ValueError, match="8 experts of 4"):
        moe_experts_spread(x, torch.ones(3, 2), torch.zeros(3, 2).long(), few)
