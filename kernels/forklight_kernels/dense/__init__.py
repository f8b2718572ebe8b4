"""Matrix product with a weight, and the residual sum that may end it; several weights at once."""

from forklight_kernels.dense.joined import dense_many, join_weights
from forklight_kernels.dense.product import dense

__all__ = ["dense", "dense_many", "join_weights"]
