"""Every fast path is held to its naive truth: outputs and all gradients, in fp64 and fp32."""

import os
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():  # Triton decides at its import whether it interprets
    os.environ.setdefault("TRITON_INTERPRET", "1")

from forklight_kernels import Backend, using_backend

Op = Callable[..., Tensor | tuple[Tensor, ...]]
Result = tuple[list[Tensor], list[Tensor]]


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def pack() -> Callable[[Sequence[int]], Tensor]:
    """cu_seqlens of packed sequences with these lengths."""

    def cu_seqlens(lengths: Sequence[int]) -> Tensor:
        return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)

    return cu_seqlens


@pytest.fixture
def assert_matches_naive() -> Callable[..., None]:
    """Compare an op's fast path with its naive form; every float input gets a gradient."""

    def check(op: Op, *inputs: Tensor, fp32_tolerance: float = 2e-5) -> None:
        with using_backend(Backend.NAIVE):
            truth = _run(op, inputs, torch.float64)
        _assert_close(_run(op, inputs, torch.float64), truth, 1e-10)
        _assert_close(_run(op, inputs, torch.float32), truth, fp32_tolerance)
        with torch.no_grad():
            without_gradient = _outputs(op(*_leaves(inputs, torch.float64)))
        for got, expected in zip(without_gradient, truth[0], strict=True):
            assert _error(got, expected) < 1e-10

    return check


def _run(op: Op, inputs: Sequence[Tensor], dtype: torch.dtype) -> Result:
    leaves = _leaves(inputs, dtype)
    outputs = _outputs(op(*leaves))
    differentiable = [output for output in outputs if output.requires_grad]
    generator = torch.Generator().manual_seed(7)
    pulls = [torch.randn(output.shape, generator=generator, dtype=torch.float64) for output in differentiable]
    gradients = torch.autograd.grad(
        differentiable,
        [leaf for leaf in leaves if leaf.requires_grad],
        [pull.to(output.dtype) for pull, output in zip(pulls, differentiable, strict=True)],
    )
    return [output.detach() for output in outputs], list(gradients)


def _leaves(inputs: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [
        value.detach().to(dtype).requires_grad_() if value.is_floating_point() else value for value in inputs
    ]


def _outputs(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _assert_close(got: Result, expected: Result, tolerance: float) -> None:
    for kind, got_tensors, expected_tensors in zip(("output", "gradient"), got, expected, strict=True):
        for number, (a, b) in enumerate(zip(got_tensors, expected_tensors, strict=True)):
            assert a.shape == b.shape, f"{kind} {number}"
            assert _error(a, b) < tolerance, f"{kind} {number} is off by {_error(a, b):.2e}"


def _error(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the truth's own size."""
    scale = max(1.0, float(expected.double().abs().max())) if expected.numel() else 1.0
    return float((got.double() - expected.double()).abs().max()) / scale if expected.numel() else 0.0
