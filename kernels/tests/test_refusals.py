"""Bad input is a ValueError that names the argument, before any work, also where no GPU is.

Legend: T tokens, H heads, G key heads, D head size.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forklight_kernels import (
    KeyPages,
    append_keys,
    cached_attention,
    dense,
    gated_norm,
    lightning_attention,
    moe_experts,
    moe_router,
    rms_norm,
    rope,
    softmax_attention,
    token_stats,
)

Q_THD, K_TGD = torch.randn(9, 2, 16), torch.randn(9, 1, 16)
WHOLE, UNSORTED, SHORT = (torch.tensor(ends, dtype=torch.int32) for ends in ([0, 9], [0, 5, 3, 9], [0, 4, 8]))
PAGES = KeyPages(keys_PGLD=torch.randn(2, 1, 8, 16), values_PGLD=torch.randn(2, 1, 8, 16))
ROWS_TD = torch.randn(3, 16)


def lightning(q_THD: Tensor = Q_THD, cu_seqlens: Tensor = WHOLE) -> object:
    return lightning_attention(q_THD, Q_THD, Q_THD, torch.ones(2), cu_seqlens)


def softmax(k_TGD: Tensor = K_TGD, cu_seqlens: Tensor = WHOLE) -> object:
    return softmax_attention(Q_THD, k_TGD, k_TGD, cu_seqlens)


def cached(q_THD: Tensor, lengths: Tensor, cu_seqlens: Tensor | None = None) -> object:
    return cached_attention(q_THD, PAGES, lengths, cu_seqlens)


def experts(choices: Tensor, w13_EFD: Tensor) -> object:
    return moe_experts(ROWS_TD, torch.ones(3, 2), choices, w13_EFD, torch.randn(4, 8, 16))


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "lightning, offsets fall": (
        lambda: lightning(cu_seqlens=UNSORTED),
        "cu_seqlens is .0, 5, 3, 9.*never fall",
    ),
    "lightning, offsets end early": (lambda: lightning(cu_seqlens=SHORT), "cu_seqlens.*number of tokens, 9"),
    "lightning, dtypes mixed": (lambda: lightning(Q_THD.half()), "k_THD is float32 and q_THD float16"),
    "softmax, offsets fall": (lambda: softmax(cu_seqlens=UNSORTED), "cu_seqlens.*never fall"),
    "softmax, dtypes mixed": (lambda: softmax(K_TGD.half()), "k_TGD is float16 and q_THD float32"),
    "softmax, heads do not divide": (
        lambda: softmax(torch.randn(9, 3, 16)),
        "3 key heads.*divisors of the 2",
    ),
    "cached, one token a sequence": (lambda: cached(Q_THD, torch.tensor([3, 4])), "9 tokens for 2 sequences"),
    "cached, lengths of others": (lambda: cached(Q_THD[:2], torch.tensor([3])), "lengths_B has shape"),
    "append, head size": (
        lambda: append_keys(torch.randn(2, 1, 8), torch.randn(2, 1, 8), PAGES, torch.arange(2)),
        "head size 16 and the new rows 8",
    ),
    "dense, widths": (lambda: dense(ROWS_TD, torch.randn(4, 17)), "x has 16 columns and weight 17"),
    "router, experts": (lambda: moe_router(ROWS_TD, torch.randn(300, 16), 2), "300 experts; at most 256"),
    "router, top_k": (lambda: moe_router(ROWS_TD, torch.randn(4, 16), 5), "top_k is 5; it must be 1 to 4"),
    "experts, choices are floats": (
        lambda: experts(torch.zeros(3, 2), torch.randn(4, 16, 16)),
        "experts is float32; allowed are int64, int32",
    ),
    "experts, matrices": (
        lambda: experts(torch.zeros(3, 2).long(), torch.randn(4, 12, 16)),
        "w13 has shape",
    ),
    "norm, dtypes mixed": (lambda: rms_norm(ROWS_TD, torch.ones(16).half(), 1e-5), "weight_D is float16"),
    "gate, shape": (lambda: gated_norm(ROWS_TD, ROWS_TD[:, :8], torch.ones(16), 1e-5), "gate_TD has shape"),
    "rotation, odd": (
        lambda: rope(Q_THD, torch.arange(9), 5, 1e4),
        "rotary_dim is 5; expected an even number",
    ),
    "head, temperature": (
        lambda: token_stats(ROWS_TD, torch.randn(5, 16), torch.zeros(3).long(), 0.0),
        "temperature is 0.0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_with_its_name(case: str) -> None:
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        call()
