"""The Triton row kernels against their definitions, on a CPU by Triton's interpreter.

Legend: T tokens, D width, H query heads, G key heads.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, gated_norm, rms_norm, rope, using_backend
from forklight_kernels.rope import rope_pair

pytest.importorskip("triton")
from forklight_kernels.gated_norm import triton_gpu as triton_gated_norm
from forklight_kernels.rms_norm import triton_gpu as triton_rms_norm
from forklight_kernels.rms_norm.triton_rows import NormTile

Op = Callable[..., Tensor | tuple[Tensor, ...]]
EPS, THETA = 1e-5, 1e7
IN_BLOCKS = NormTile(
    forward_block=32,
    forward_warps=1,
    backward_block=32,
    backward_warps=1,
    backward_stages=1,
    programs_per_multiprocessor=2,
    rows_per_program=3,
)
"""Rows of several blocks, as widths above 16,384 are."""

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is chosen where there is no GPU"),
]


def check(op: Op, inputs: Sequence[Tensor], triton_op: Op | None = None, tolerance: float = 1e-5) -> None:
    """Outputs and all gradients in fp32 against the definition in fp64."""
    with using_backend(Backend.NAIVE):
        truth = run(op, [value.double() for value in inputs])
    with using_backend(Backend.TRITON):
        got = run(triton_op or op, inputs)
        with torch.no_grad():
            bare = outputs_of((triton_op or op)(*inputs))
    for a, b in zip(got, truth, strict=True):
        scale = max(1.0, float(b.abs().max()))
        assert a.shape == b.shape
        assert float((a.double() - b).abs().max()) / scale < tolerance
    for a, b in zip(bare, got, strict=False):
        assert torch.equal(a, b)


def run(op: Op, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [value.detach().requires_grad_() for value in inputs]
    outputs = outputs_of(op(*leaves))
    generator = torch.Generator().manual_seed(7)
    pulls = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in outputs]
    pulls = [pull.to(value.dtype) for pull, value in zip(pulls, outputs, strict=True)]
    return [value.detach() for value in outputs] + list(torch.autograd.grad(outputs, leaves, pulls))


def outputs_of(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


@pytest.mark.parametrize(("num_tokens", "width"), [(1, 64), (9, 48), (33, 24), (5, 72), (3, 7)])
def test_rms_norm_matches_its_definition(num_tokens: int, width: int) -> None:
    check(lambda x, w: rms_norm(x, w, EPS), [torch.randn(num_tokens, width) * 3, torch.randn(width)])


@pytest.mark.parametrize(("num_tokens", "width"), [(1, 64), (9, 48), (33, 24), (3, 7)])
def test_gated_norm_matches_its_definition(num_tokens: int, width: int) -> None:
    inputs = [torch.randn(num_tokens, width), torch.randn(num_tokens, width) * 3, torch.randn(width)]
    check(lambda x, gate, w: gated_norm(x, gate, w, EPS), inputs)


def test_norms_match_in_rows_of_several_blocks() -> None:
    x_TD, gate_TD, weight_D = torch.randn(7, 80), torch.randn(7, 80), torch.randn(80)
    check(
        lambda x, w: rms_norm(x, w, EPS),
        [x_TD, weight_D],
        lambda x, w: triton_rms_norm.rms_norm(x, w, EPS, IN_BLOCKS),
    )
    check(
        lambda x, gate, w: gated_norm(x, gate, w, EPS),
        [x_TD, gate_TD, weight_D],
        lambda x, gate, w: triton_gated_norm.gated_norm(x, gate, w, EPS, IN_BLOCKS),
    )


@pytest.mark.parametrize("first", [0, 16, 5])
def test_norms_read_strided_and_unaligned_rows(first: int) -> None:
    """Views of a wider tensor, on a 16-element step or off it; and a weight inside a flat buffer."""
    wide_TD, flat = torch.randn(6, 96 + first), torch.randn(100)
    x_TD, gate_TD, weight_D = wide_TD[:, first : first + 32], wide_TD[:, first + 32 : first + 64], flat[3:35]
    check(lambda x, gate, w: gated_norm(x, gate, w, EPS), [x_TD, gate_TD, weight_D])
    check(lambda x, w: rms_norm(x, w, EPS), [x_TD, weight_D])
    check(lambda x, w: rms_norm(x.t().contiguous().t(), w, EPS), [x_TD, weight_D])


def test_norm_backward_reads_an_expanded_gradient() -> None:
    """The gradient of a sum has stride 0."""
    x_TD, weight_D = torch.randn(5, 32, requires_grad=True), torch.randn(32)
    gradients = []
    for backend in (Backend.TORCH, Backend.TRITON):
        with using_backend(backend):
            gradients.append(torch.autograd.grad(rms_norm(x_TD, weight_D, EPS).sum(), x_TD)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_narrow_norms_round_where_the_definitions_do() -> None:
    """The interpreter cuts bf16 off where a GPU rounds, so this is seen in fp16."""
    dtype = torch.float16
    x_TD, gate_TD, weight_D = (torch.randn(shape).to(dtype) for shape in ((40, 64), (40, 64), (64,)))
    results = []
    for backend in (Backend.NAIVE, Backend.TRITON):
        with using_backend(backend):
            results.append((rms_norm(x_TD, weight_D, EPS), gated_norm(x_TD, gate_TD, weight_D, EPS)))
    for expected, got in zip(*results, strict=True):
        assert got.dtype == dtype
        assert (got == expected).double().mean() > 0.99  # the rest: a sum in another order, one step away
        torch.testing.assert_close(got, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_a_norm_row_has_the_same_bits_in_every_batch() -> None:
    x_TD, gate_TD, weight_D = torch.randn(70, 48), torch.randn(70, 48), torch.randn(48)
    with using_backend(Backend.TRITON):
        whole = gated_norm(x_TD, gate_TD, weight_D, EPS)
        for rows in (slice(0, 1), slice(3, 10), slice(69, 70)):
            assert torch.equal(gated_norm(x_TD[rows], gate_TD[rows], weight_D, EPS), whole[rows])


@pytest.mark.parametrize("rotary_dim", [8, 16, 0])
@pytest.mark.parametrize("num_heads", [1, 4, 5])
def test_rope_matches_its_definition(num_heads: int, rotary_dim: int) -> None:
    positions_T = torch.tensor([0, 1, 77, 80_000, 1_000_000, 9_999_999])
    check(lambda x: rope(x, positions_T, rotary_dim, THETA), [torch.randn(6, num_heads, 16)])


def test_rope_pair_turns_views_of_one_projection() -> None:
    joined_TW = torch.randn(5, (4 + 2 + 2) * 16)
    q_THD, k_TGD = joined_TW[:, :64].view(5, 4, 16), joined_TW[:, 64:96].view(5, 2, 16)
    positions_T = torch.tensor([3, 4, 5, 0, 1], dtype=torch.int32)
    check(lambda q, k: rope_pair(q, k, positions_T, 8, THETA), [q_THD, k_TGD])
    with using_backend(Backend.TRITON):
        pair = rope_pair(q_THD, k_TGD, positions_T, 8, THETA)
        for turned, alone in zip(pair, (q_THD, k_TGD), strict=True):
            assert torch.equal(turned, rope(alone, positions_T, 8, THETA))
            assert turned.is_contiguous()


def test_rope_shares_more_keys_than_one_program_takes() -> None:
    """40 heads of 128 are 3 programs, which share 5 keys."""
    inputs = [torch.randn(2, 40, 128), torch.randn(2, 5, 128)]
    check(lambda q, k: rope_pair(q, k, torch.tensor([1, 900]), 64, THETA), inputs)


def test_no_tokens_are_no_launch() -> None:
    weight_D = torch.randn(16, requires_grad=True)
    x_TD = torch.empty(0, 16, requires_grad=True)
    with using_backend(Backend.TRITON):
        (gated_norm(x_TD, x_TD, weight_D, EPS) + rms_norm(x_TD, weight_D, EPS)).sum().backward()
        assert rope(torch.empty(0, 2, 16), torch.empty(0, dtype=torch.int64), 8, THETA).shape == (0, 2, 16)
    assert weight_D.grad is not None
    assert torch.equal(weight_D.grad, torch.zeros(16))


def test_bad_inputs_are_refused_by_name() -> None:
    x_TD, weight_D, positions_T = torch.randn(4, 16), torch.randn(16), torch.arange(4)
    x_THD = torch.randn(4, 2, 16)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("x_TD has shape", lambda: rms_norm(x_THD, weight_D, EPS)),
        ("weight_D has shape", lambda: rms_norm(x_TD, weight_D[:8], EPS)),
        ("weight_D is bfloat16", lambda: rms_norm(x_TD, weight_D.bfloat16(), EPS)),
        ("x_TD is float64", lambda: rms_norm(x_TD.double(), weight_D.double(), EPS)),
        ("gate_TD has shape", lambda: gated_norm(x_TD, x_TD[:2], weight_D, EPS)),
        ("gate_TD is float16", lambda: gated_norm(x_TD, x_TD.half(), weight_D, EPS)),
        ("positions_T has shape", lambda: rope(x_THD, positions_T[:3], 8, THETA)),
        ("positions_T is float32", lambda: rope(x_THD, positions_T.float(), 8, THETA)),
        ("rotary_dim is 7", lambda: rope(x_THD, positions_T, 7, THETA)),
        ("rotary_dim is 18", lambda: rope(x_THD, positions_T, 18, THETA)),
        ("head size 12", lambda: rope(x_THD[..., :12], positions_T, 8, THETA)),
        ("k_TGD has shape", lambda: rope_pair(x_THD, x_THD[:3], positions_T, 8, THETA)),
        ("k_TGD is float16", lambda: rope_pair(x_THD, x_THD.half(), positions_T, 8, THETA)),
    ]
    with using_backend(Backend.TRITON):
        for message, call in refused:
            with pytest.raises(ValueError, match=message):
                call()
