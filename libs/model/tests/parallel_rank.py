"""One process of a model cut into parts, for the tests: python parallel_rank.py FOLDER RANK WORLD.

FOLDER holds `jobs.json`, a list of `Job`s, and the model folders that they name. Every job is done by the
whole model and by groups of its sizes; what they computed lies in <job>-<size>-<rank>.pt.
Legend: T tokens, B sequences.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

if not torch.cuda.is_available():  # Triton decides at its import whether it interprets
    os.environ["TRITON_INTERPRET"] = "1"

from ordered_products import OrderedProducts

from forklight_core.errors import WeightsError
from forklight_kernels import Backend, using_backend
from forklight_model.cache import CacheForm, HybridCache
from forklight_model.checkpoint import load_model
from forklight_model.decode_graph import DecodeGraph
from forklight_model.inference import PromptPieces, decode, prefill
from forklight_model.model import HybridModel
from forklight_model.parallel import DistributedGather
from forklight_model.same_weights import require_same_weights
from forklight_model.shard import WHOLE, Shard

DEADLINE = timedelta(minutes=6)
"""Of a message; on a GPU the first ones wait for compilers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to compute with one model."""

    name: str
    dtype: str
    device: str
    products: str
    """"torch", as they are; "ordered", one number after another; "interpreted", Triton's, ordered as well."""
    sizes: list[int]
    """How many processes share the work."""
    lengths: list[int]
    """Of the prompts; one of two tokens or more is prefilled in two pieces."""
    num_steps: int
    """Of decoding."""


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    jobs = [Job(**each) for each in json.loads((folder / "jobs.json").read_text())]
    uses_gpu = jobs[0].device == "cuda"
    if uses_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if uses_gpu else "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=DEADLINE,
    )
    for size in sorted({1} | {size for job in jobs for size in job.sizes}):
        group = dist.new_group(list(range(size)), timeout=DEADLINE)  # by all processes, members or not
        # The last process works alone while the first ones share the work.
        if rank == world - 1 and size == 1:
            gather = None
        elif rank < size > 1:
            gather = DistributedGather(Shard(rank=rank, size=size), group)
        else:
            continue
        for job in jobs:
            if size in (1, *job.sizes):
                _do(job, folder, rank, gather)
    dist.barrier(device_ids=[rank] if uses_gpu else None)
    dist.destroy_process_group()


def _do(job: Job, folder: Path, rank: int, gather: DistributedGather | None) -> None:
    shard = WHOLE if gather is None else gather.shard
    dtype: torch.dtype = getattr(torch, job.dtype)
    with torch.inference_mode(), _backend(job):
        model = load_model(folder / job.name, dtype, device=job.device, shard=shard, gather=gather)
        model.requires_grad_(False)
        results = _generate(model, job, dtype)
        if job.products != "interpreted":
            results |= _score(model, job)
        if gather is not None:
            results["told"] = _disagree(model)
    torch.save(results, folder / f"{job.name}-{shard.size}-{rank}.pt")


def _generate(model: HybridModel, job: Job, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    num_slots, longest = len(job.lengths), max(job.lengths) + 2 * job.num_steps
    cache = HybridCache(model.config, num_slots, longest, dtype, job.device, CacheForm(shard=model.shard))

    def draw(num: int) -> Tensor:
        return torch.randint(model.config.vocab_size, (num,), generator=generator).to(job.device)

    first = [length // 2 or length for length in job.lengths]
    rest = {slot: length - first[slot] for slot, length in enumerate(job.lengths) if length > first[slot]}
    steps = [prefill(model, cache, PromptPieces(slots=range(num_slots), lengths=first), draw(sum(first)))]
    if rest:
        pieces = PromptPieces(slots=list(rest), lengths=list(rest.values()))
        steps.append(prefill(model, cache, pieces, draw(sum(rest.values()))))
    steps += [decode(model, cache, num_slots, draw(num_slots)) for _ in range(job.num_steps)]
    if job.device == "cuda":
        graph = DecodeGraph(model, cache, num_slots)
        steps += [graph(draw(num_slots)).clone() for _ in range(job.num_steps)]
    return {"logits": [each.cpu() for each in steps]}


def _score(model: HybridModel, job: Job) -> dict[str, Any]:
    """The head's statistics, as scoring has them."""
    generator = torch.Generator().manual_seed(2)
    ids_T = torch.randint(model.config.vocab_size, (sum(job.lengths),), generator=generator).to(job.device)
    cu_seqlens = torch.tensor([0, *job.lengths]).cumsum(0).to(device=job.device, dtype=torch.int32)
    hidden_TD = model.forward_hidden(ids_T, cu_seqlens)
    logprobs_T, entropy_T = model.token_stats(hidden_TD, ids_T, 0.9)
    return {"logprobs": logprobs_T.cpu(), "entropy": entropy_T.cpu()}


def _disagree(model: HybridModel) -> str:
    """What is said when the last process holds other weights than the rest; before that, nothing is."""
    require_same_weights(model)
    if model.shard.rank == model.shard.size - 1:
        model.model.norm.weight[3] *= 2
    try:
        require_same_weights(model)
    except WeightsError as error:
        return str(error)
    return ""


@contextmanager
def _backend(job: Job) -> Iterator[None]:
    if job.products == "torch":
        yield
    elif job.products == "ordered":
        with using_backend(Backend.TORCH), OrderedProducts():
            yield
    else:
        from triton.runtime.interpreter import InterpreterBuilder

        InterpreterBuilder.create_dot = _ordered_dot
        with using_backend(Backend.TRITON):
            yield


def _ordered_dot(builder: Any, left: Any, right: Any, total: Any, *_: object) -> Any:
    """The interpreter's product in the contract's order: numpy's depends on the place of a column."""
    sums = total.data.copy()
    for k in range(left.data.shape[-1]):
        sums += left.data[..., k, None].astype(sums.dtype) * right.data[..., k, None, :].astype(sums.dtype)
    return type(total)(sums, total.dtype.scalar)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
