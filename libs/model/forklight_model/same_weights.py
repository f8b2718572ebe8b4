"""Whether the processes of one engine hold parts of the same weights.

Parts differ, so they cannot be compared. But every process holds the routers and norms whole, and an
optimizer step changes those: they tell of a process that missed a version. Nothing is said of other tensors.
"""

from hashlib import blake2b

import torch
from torch import Tensor

from forklight_core.errors import WeightsError
from forklight_model.model import HybridModel
from forklight_model.shard import cut_dim

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def weights_digest(model: HybridModel) -> int:
    """63 bits of the routers and norms; equal for parts of one model. Waits for a GPU once."""
    shared = {name: tensor for name, tensor in model.state_dict().items() if cut_dim(name) is None}
    sums: list[int] = torch.stack([_weighted_sum(tensor) for tensor in shared.values()]).tolist()
    content = "".join(f"{name} {total};" for name, total in zip(shared, sums, strict=True))
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "big") >> 1


def require_same_weights(model: HybridModel) -> None:
    """WeightsError, in every process, where one holds another version. All processes call it together."""
    device = model.model.norm.weight.device
    mine_11 = torch.tensor([[weights_digest(model)]], dtype=torch.int64, device=device)
    digests: list[int] = model.gather.gather_columns(mine_11)[0].tolist()
    if len(set(digests)) > 1:
        held = ", ".join(f"process {rank} holds {digest:016x}" for rank, digest in enumerate(digests))
        raise WeightsError(f"the parts of the model are not of one version: {held}; load one version in all")


def _weighted_sum(tensor: Tensor) -> Tensor:
    """The elements' bits times odd numbers, modulo 2^64: one changed element always changes it."""
    bits = tensor.contiguous().view(_BITS[tensor.element_size()]).flatten().to(torch.int64)
    odd = torch.arange(1, 2 * len(bits), 2, device=bits.device)
    return (bits * odd).sum()
