"""Matrix products that add one number after another, as a GPU's kernels of ours do: for tests of bits."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class OrderedProducts(TorchFunctionMode):
    """Every matrix product adds one number after another, whatever its shape; a CPU's own do so by shape."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options, name = options or {}, function.__name__
        if name in ("mm", "bmm", "matmul", "__matmul__"):
            product = _ordered_product(*arguments)
        elif name == "linear":
            product = _ordered_product(arguments[0], arguments[1].t())
        elif name in ("addmm", "baddbmm", "baddbmm_"):
            added, left, right = arguments
            product = _ordered_product(left, right) * options.get("alpha", 1) + added * options.get("beta", 1)
        else:
            return function(*arguments, **options)
        out = arguments[0] if name.endswith("m_") else options.get("out")
        return product if out is None else out.copy_(product)


def _ordered_product(left: Tensor, right: Tensor) -> Tensor:
    total = left.new_zeros(*left.shape[:-1], right.shape[-1])
    for k in range(left.shape[-1]):
        total += left[..., k, None] * right[..., k, None, :]
    return total


class OrderedSums(TorchDispatchMode):
    """The same for gradients that torch computes by itself, and for rounding as a GPU does: wide, once."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options, packet = options or {}, function.overloadpacket
        if packet in (aten.mm, aten.bmm):
            product = _wide_product(*arguments)
        elif packet in (aten.addmm, aten.baddbmm, aten.baddbmm_):
            added, left, right = arguments
            product = _wide_product(left, right) * options.get("alpha", 1) + added * options.get("beta", 1)
        elif packet is aten.mv:
            product = _wide_product(arguments[0], arguments[1][:, None])[:, 0]
        elif packet is aten.addmv:
            product = arguments[0] + _wide_product(arguments[1], arguments[2][:, None])[:, 0]
        else:
            return function(*arguments, **options)
        out = arguments[0] if packet is aten.baddbmm_ else options.get("out")
        return product.to(arguments[0].dtype) if out is None else out.copy_(product)


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    return (
        _ordered_product(left, right)
        if left.element_size() > 2
        else _ordered_product(left.float(), right.float())
    )
