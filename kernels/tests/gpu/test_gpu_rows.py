"""rms_norm, gated_norm and rope on a GPU: error against float64, and shared bits.

Legend: T tokens, D width, H query heads, G key heads.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, gated_norm, rms_norm, rope, using_backend
from forklight_kernels.rope import rope_pair

pytestmark = pytest.mark.gpu

Op = Callable[..., Tensor | tuple[Tensor, ...]]
FloatError = Callable[[Tensor, Tensor], float]
Poisoned = Callable[[], AbstractContextManager[None]]

EPS, THETA = 1e-5, 1e7
LENGTHS = (1, 63, 64, 65, 500, 4097)
BATCHES = (1, 7, 64, 4096)
TOLERANCE = {torch.bfloat16: 6e-3, torch.float16: 2e-3, torch.float32: 2e-5}


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, EPS)


def gated(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    return gated_norm(x, gate, weight, EPS)


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def run(op: Op, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradient of every input for fixed random pulls."""
    leaves = [value.detach().requires_grad_() for value in inputs]
    result = op(*leaves)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    generator = torch.Generator("cuda").manual_seed(7)
    pulls = [torch.randn(value.shape, generator=generator, device="cuda") for value in outputs]
    # Rounded to bf16 first: the same numbers whatever dtype runs.
    pulls = [pull.bfloat16().to(value.dtype) for pull, value in zip(pulls, outputs, strict=True)]
    gradients = torch.autograd.grad(outputs, leaves, pulls)
    return [value.detach() for value in outputs], list(gradients)


def assert_right(op: Op, inputs: Sequence[Tensor], error: FloatError, poisoned: Poisoned) -> None:
    """Outputs and gradients near the definition's in float64; the same bits again, and without gradient."""
    with using_backend(Backend.NAIVE):
        truth = run(op, [value.double() for value in inputs])
    with poisoned():
        got, again = run(op, inputs), run(op, inputs)
        with torch.no_grad():
            bare = op(*inputs)
    for kind in (0, 1):
        for number, (a, b) in enumerate(zip(got[kind], truth[kind], strict=True)):
            found = error(a, b)
            label = ("output", "gradient")[kind]
            assert found < TOLERANCE[inputs[0].dtype], f"{label} {number}: {found:.2e}"
            assert torch.equal(a, again[kind][number]), f"{label} {number} differs from run to run"
    for a, b in zip([bare] if isinstance(bare, Tensor) else bare, got[0], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("width", "lengths", "dtype"),
    [
        (2048, LENGTHS, torch.bfloat16),
        (6144, (1, 65, 4097), torch.bfloat16),
        (1000, (1, 65), torch.bfloat16),
        (20_000, (3, 300), torch.bfloat16),
        (2048, (1, 65, 500), torch.float32),
        (512, (64,), torch.float16),
    ],
)
def test_rms_norm_matches_float64(
    width: int, lengths: Sequence[int], dtype: torch.dtype, float64_error: FloatError, poisoned: Poisoned
) -> None:
    weight_D = randn(width, dtype=dtype)
    for length in lengths:
        x_TD = randn(length, width, dtype=dtype, scale=3.0)
        assert_right(normed, [x_TD, weight_D], float64_error, poisoned)


@pytest.mark.parametrize(
    ("width", "lengths", "dtype"),
    [
        (2048, LENGTHS, torch.bfloat16),
        (8192, (1, 65, 4097), torch.bfloat16),
        (20_000, (3, 300), torch.bfloat16),
        (2048, (1, 65, 500), torch.float32),
    ],
)
def test_gated_norm_matches_float64(
    width: int, lengths: Sequence[int], dtype: torch.dtype, float64_error: FloatError, poisoned: Poisoned
) -> None:
    weight_D = randn(width, dtype=dtype)
    for length in lengths:
        x_TD, gate_TD = randn(length, width, dtype=dtype), randn(length, width, dtype=dtype, scale=3.0)
        assert_right(gated, [x_TD, gate_TD, weight_D], float64_error, poisoned)


@pytest.mark.parametrize("width", [2048, 6144, 8192])
def test_a_norm_row_has_the_same_bits_in_every_batch(width: int) -> None:
    """Alone, at another place, beside rows 30 times as large, in the trainer's pass and in the rollout's."""
    x_TD, gate_TD, weight_D = randn(BATCHES[-1], width), randn(BATCHES[-1], width), randn(width)
    for op, rows in ((normed, (x_TD,)), (gated, (x_TD, gate_TD))):
        whole_TD = op(*rows, weight_D)
        for size in BATCHES:
            assert torch.equal(op(*(value[:size] for value in rows), weight_D), whole_TD[:size])
        assert torch.equal(op(*(value[70:71] for value in rows), weight_D), whole_TD[70:71])
        moved = [torch.cat((value[1:500] * 30, value[:1])) for value in rows]
        assert torch.equal(op(*moved, weight_D)[-1:], whole_TD[:1])
        trained_TD = op(
            *(value.clone().requires_grad_() for value in rows), weight_D.clone().requires_grad_()
        )
        assert torch.equal(trained_TD.detach(), whole_TD)


def test_a_norm_row_has_the_same_bits_in_a_batch_of_100_000() -> None:
    x_TD, weight_D = randn(100_000, 2048), randn(2048)
    whole_TD = normed(x_TD, weight_D)
    for place in (0, 12_345, 99_999):
        assert torch.equal(normed(x_TD[place : place + 1], weight_D), whole_TD[place : place + 1])


@pytest.mark.parametrize("first", [0, 16, 8, 3])
def test_norms_read_strided_rows_with_the_same_bits(first: int) -> None:
    """Views on a 16-element step are read in place, others copied; a weight may lie in a flat buffer."""
    wide_TD, flat = randn(70, 2 * 2048 + 16 + first), randn(2048 + first)
    x_TD, gate_TD = wide_TD[:, first : first + 2048], wide_TD[:, first + 2048 : first + 4096]
    weight_D = flat[first:]
    here, apart = [x_TD, gate_TD, weight_D], [value.clone() for value in (x_TD, gate_TD, weight_D)]
    for got, expected in zip(run(gated, here), run(gated, apart), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    for got, expected in zip(run(normed, here[::2]), run(normed, apart[::2]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((16, 4, 128, 64), torch.bfloat16),
        ((64, 8, 128, 64), torch.bfloat16),
        ((5, 1, 32, 32), torch.bfloat16),
        ((16, 4, 128, 64), torch.float32),
    ],
)
def test_rope_matches_float64(
    shape: tuple[int, int, int, int], dtype: torch.dtype, float64_error: FloatError, poisoned: Poisoned
) -> None:
    """At positions up to 10 million: angles that a short range reduction would lose."""
    heads, keys, head_size, rotary_dim = shape
    for length in LENGTHS:
        positions_T = torch.randint(10_000_000, (length,), device="cuda")
        q_THD = randn(length, heads, head_size, dtype=dtype)
        k_TGD = randn(length, keys, head_size, dtype=dtype)

        def pair(q: Tensor, k: Tensor, positions_T: Tensor = positions_T) -> tuple[Tensor, Tensor]:
            return rope_pair(q, k, positions_T, rotary_dim, THETA)

        assert_right(pair, [q_THD, k_TGD], float64_error, poisoned)


def test_rope_loses_nothing_at_a_million(float64_error: FloatError) -> None:
    """One head of ones shows cos and sin themselves; the reference has the same fp32 angle."""
    positions_T = torch.arange(0, 1_000_001, 9973, device="cuda")
    x_THD = torch.ones(len(positions_T), 1, 64, device="cuda")
    with using_backend(Backend.NAIVE):
        truth_THD = rope(x_THD.double(), positions_T, 64, THETA)
    assert float((rope(x_THD, positions_T, 64, THETA) - truth_THD).abs().max()) < 5e-7


def test_rope_has_the_same_bits_in_every_batch_and_layout() -> None:
    """Slices of a joined projection, read in place; queries alone, or with their keys; int32 positions."""
    joined_TW = randn(BATCHES[-1], (16 + 4 + 4) * 128)
    q_THD = joined_TW[:, :2048].view(-1, 16, 128)
    k_TGD = joined_TW[:, 2048:2560].view(-1, 4, 128)
    positions_T = torch.randint(80_000, (BATCHES[-1],), device="cuda")
    whole = rope_pair(q_THD, k_TGD, positions_T, 64, THETA)
    for size in BATCHES:
        part = rope_pair(q_THD[:size].clone(), k_TGD[:size].clone(), positions_T[:size].int(), 64, THETA)
        for a, b, alone in zip(part, whole, (q_THD, k_TGD), strict=True):
            assert torch.equal(a, b[:size])
            assert torch.equal(rope(alone[:size], positions_T[:size], 64, THETA), b[:size])


def test_a_decode_step_runs_inside_a_graph() -> None:
    """No host synchronisation: the captured kernels give the eager bits for data written later."""
    x_TD, gate_TD, weight_D = randn(64, 2048), randn(64, 2048), randn(2048)
    q_THD, k_TGD = randn(64, 16, 128), randn(64, 4, 128)
    positions_T = torch.randint(80_000, (64,), device="cuda")

    def step() -> list[Tensor]:
        turned = rope_pair(q_THD, k_TGD, positions_T, 64, THETA)
        return [normed(x_TD, weight_D), gated(x_TD, gate_TD, weight_D), *turned]

    with torch.no_grad():
        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        for tensor in (x_TD, gate_TD, q_THD, k_TGD):
            tensor.normal_()
        positions_T.add_(1)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))
