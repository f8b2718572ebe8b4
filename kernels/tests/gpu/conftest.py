"""What the tests on a GPU share. They hold a kernel to its definition in float64, on the same GPU."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def on_gpu(fixed_seed: None) -> None:
    """Nothing here has a meaning without a GPU. The seed is that of every kernel test."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU: torch.cuda.is_available() is False")


@pytest.fixture
def float64_error() -> Callable[[Tensor, Tensor], float]:
    """||got - truth|| / ||truth||, in float64; the norm of the difference where the truth is zero."""

    def error(got: Tensor, truth: Tensor) -> float:
        assert got.shape == truth.shape
        truth = truth.double()
        difference, size = float((got.double() - truth).norm()), float(truth.norm())
        return difference / size if size else difference

    return error


@pytest.fixture
def poisoned() -> Callable[[], AbstractContextManager[None]]:
    """`with poisoned():` every torch.empty inside is full of NaN, so that an unwritten hole shows."""

    @contextmanager
    def context() -> Iterator[None]:
        before = torch.are_deterministic_algorithms_enabled()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about ops that have no deterministic form: not what is asked for
            torch.use_deterministic_algorithms(True, warn_only=True)
            try:
                yield
            finally:
                torch.use_deterministic_algorithms(before)

    return context
