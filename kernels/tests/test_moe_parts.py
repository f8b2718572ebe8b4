"""Experts cut into parts: side by side the parts' columns are the whole op's output.

Legend: T tokens, K slots a token, D width, E experts, I expert width, n processes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, ExpertPart, Residual, moe_experts, moe_experts_part, using_backend
from forklight_kernels.backend import has_triton

NEEDS_INTERPRETER = pytest.mark.skipif(
    not has_triton() or torch.cuda.is_available(),
    reason="Triton's interpreter is chosen where there is no GPU",
)


@pytest.fixture
def ordered_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's products add one number after another; numpy's depend on the place of a column."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def create_dot(builder: Any, left: Any, right: Any, total: Any, *_: object) -> Any:
        sums = total.data.copy()
        for k in range(left.data.shape[-1]):
            sums += left.data[:, k, None] * right.data[k]
        return type(total)(sums, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """Inputs of one call."""

    x_TD: Tensor
    weights_TK: Tensor
    experts_TK: Tensor
    w13_EFD: Tensor
    w2_EID: Tensor
    residual_TD: Tensor

    def whole(self) -> Tensor:
        matrices = (self.w13_EFD, self.w2_EID)
        return moe_experts(self.x_TD, self.weights_TK, self.experts_TK, *matrices, self.residual())

    def residual(self, columns: slice = slice(None)) -> Residual:
        return Residual(x_TD=self.residual_TD[:, columns], alpha=3.5, beta=0.5)

    def part(self, rank: int, size: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
        num_experts, inner, width = self.w2_EID.shape
        rows, columns = (slice(rank * each // size, (rank + 1) * each // size) for each in (inner, width))
        w13_E2ID = self.w13_EFD.view(num_experts, 2, inner, width)[:, :, rows]
        part = ExpertPart(
            w13_EFD=w13_E2ID.reshape(num_experts, -1, width),
            w2_EID=self.w2_EID[:, :, columns].contiguous(),
            gather_columns=gather,
        )
        routing = (self.weights_TK, self.experts_TK)
        return moe_experts_part(self.x_TD, *routing, part, self.residual(columns))


def case(num_tokens: int, dtype: torch.dtype = torch.float32) -> Case:
    width, inner, num_experts = 64, 48, 5
    return Case(
        x_TD=torch.randn(num_tokens, width, dtype=dtype),
        weights_TK=torch.softmax(torch.randn(num_tokens, 2, dtype=dtype), -1),
        # Of a token distinct, as a router's are. The last expert is never chosen.
        experts_TK=torch.rand(num_tokens, num_experts - 1).argsort(dim=1)[:, :2],
        w13_EFD=torch.randn(num_experts, 2 * inner, width, dtype=dtype),
        w2_EID=torch.randn(num_experts, inner, width, dtype=dtype),
        residual_TD=torch.randn(num_tokens, width, dtype=dtype),
    )


@dataclass(slots=True)
class Together:
    """All parts in one process: the first round notes what each part hands in, the second answers it."""

    size: int
    given: list[list[Tensor]] = field(default_factory=list)

    def run(self, inputs: Case) -> Tensor:
        for rank in range(self.size):
            self.given.append([])
            inputs.part(rank, self.size, self._note)
        return torch.cat([inputs.part(rank, self.size, self._answer()) for rank in range(self.size)], dim=1)

    def _note(self, part_RI: Tensor) -> Tensor:
        self.given[-1].append(part_RI)
        return part_RI.repeat(1, self.size)

    def _answer(self) -> Callable[[Tensor], Tensor]:
        calls = iter([torch.cat(parts, dim=1) for parts in zip(*self.given, strict=True)])
        return lambda _: next(calls)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("num_tokens", [1, 33, 400])
@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
def test_parts_side_by_side_are_the_whole(backend: Backend, num_tokens: int, size: int) -> None:
    inputs = case(num_tokens, torch.float64)
    with using_backend(backend):
        parts_TD = Together(size).run(inputs)
    with using_backend(Backend.NAIVE):
        # A CPU's matrix routines may sum otherwise for another number of columns.
        torch.testing.assert_close(parts_TD, inputs.whole(), rtol=1e-11, atol=1e-11)


@NEEDS_INTERPRETER
@pytest.mark.usefixtures("ordered_products", "poisoned_memory")
@pytest.mark.parametrize(("num_tokens", "size"), [(1, 4), (3, 2)])
def test_parts_side_by_side_have_the_wholes_bits_with_a_gpus_kernels(num_tokens: int, size: int) -> None:
    inputs = case(num_tokens)
    with using_backend(Backend.TRITON):
        assert torch.equal(Together(size).run(inputs), inputs.whole())


@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
def test_parts_of_whole_numbers_are_the_whole_exactly(backend: Backend) -> None:
    # Numbers that every order of summing adds up exactly, but for silu, which is elementwise.
    inputs = case(40, torch.float64)
    for tensor in (inputs.x_TD, inputs.w13_EFD, inputs.residual_TD):
        tensor.round_()
    inputs.w2_EID.zero_()[:, ::12, ::5] = 1.0
    inputs.w2_EID[:, 12:] = 0.0  # one hidden column an output: its sum is exact
    inputs.weights_TK.fill_(0.5)
    with using_backend(backend):
        assert torch.equal(Together(4).run(inputs), inputs.whole())


def test_parts_of_no_tokens_are_no_rows() -> None:
    inputs = case(0)
    with using_backend(Backend.TORCH):
        assert Together(2).run(inputs).shape == (0, 64)


def test_a_part_has_no_gradient() -> None:
    inputs = case(3)
    inputs.w2_EID.requires_grad_()
    with pytest.raises(ValueError, match="no gradient"):
        inputs.part(0, 2, lambda part: part)


def refusals() -> dict[str, tuple[Callable[[], object], str]]:
    inputs = case(3)
    x, weights, experts = inputs.x_TD, inputs.weights_TK, inputs.experts_TK

    def call(w13: Tensor, w2: Tensor, residual: Tensor | None = None) -> Callable[[], object]:
        part = ExpertPart(w13_EFD=w13, w2_EID=w2, gather_columns=lambda part: part)
        joined = None if residual is None else Residual(x_TD=residual, alpha=1.0, beta=1.0)
        return lambda: moe_experts_part(x, weights, experts, part, joined)

    w13, w2 = inputs.w13_EFD[:, ::2], inputs.w2_EID[:, :, ::2]
    return {
        "other shares": (call(w13, inputs.w2_EID), "for one n"),
        "other experts": (call(w13[:4], w2), "for one n"),
        "other width": (call(w13[:, :, 1:], w2), "for one n"),
        "dims": (call(w13[0], w2), "w13 has shape"),
        "dtype": (call(w13.double(), w2), "w13 is float64"),
        "residual": (call(w13, w2, inputs.residual_TD), "residual has shape"),
    }


@pytest.mark.parametrize("name", list(refusals()))
def test_a_part_that_does_not_fit_is_refused(name: str) -> None:
    call, message = refusals()[name]
    with pytest.raises(ValueError, match=message):
        call()


@NEEDS_INTERPRETER
def test_widths_that_no_tensor_map_takes_are_refused() -> None:
    inputs = case(3)
    with using_backend(Backend.TRITON), pytest.raises(ValueError, match="multiple of 4"):
        inputs.part(0, 8, lambda part: part.repeat(1, 8))  # 48 / 8 = 6 hidden columns
