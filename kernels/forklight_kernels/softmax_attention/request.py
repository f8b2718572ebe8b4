"""What softmax attention refuses before any work, on every backend.

Legend: T tokens, H heads, G key heads, D head size.
"""

from torch import Tensor

from forklight_kernels.checks import require, require_dims, require_same, require_shape


def check_heads(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> None:
    """Shapes and dtypes of queries, keys and values that belong together."""
    require_dims("q_THD", q_THD, 3, "[T, H, D]")
    require_dims("k_TGD", k_TGD, 3, "[T, G, D]")
    require_same(q_THD=q_THD, k_TGD=k_TGD, v_TGD=v_TGD)
    num_tokens, _, head_size = q_THD.shape
    require_shape("k_TGD", k_TGD, (num_tokens, k_TGD.shape[1], head_size), "the tokens and size of q_THD")
    require_shape("v_TGD", v_TGD, tuple(k_TGD.shape), "k_TGD")
    require_group("k_TGD", k_TGD.shape[1], q_THD.shape[1])


def require_group(name: str, num_key_heads: int, num_heads: int) -> None:
    """Every key head serves the same number of query heads."""
    require(
        num_key_heads > 0 and num_heads > 0 and num_heads % num_key_heads == 0,
        f"{name} has {num_key_heads} key heads; allowed are divisors of the {num_heads} query heads",
    )
