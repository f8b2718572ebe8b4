"""One process of a training step spread over several: python spread_rank.py FOLDER RANK WORLD.

FOLDER holds `jobs.json`, a list of `Job`s, and the model folders that they name. What a process computed for
a job lies in <job>-<rank>.pt. Legend: T tokens of a pack, S tokens of a slice, L layers, K experts a token.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from forklight_model.checkpoint import load_model
from forklight_model.logprobs import TokenStats, token_logprobs
from forklight_model.model import HybridModel, Recomputation
from forklight_model.routing import RecordedRouting, Routing
from forklight_model.spread.experts import LOCAL_EXPERTS, DistributedExperts
from forklight_model.spread.pack_slice import PackSlice
from forklight_model.spread.peers import Peers
from forklight_model.spread.scoring import slice_logprobs, whole_stats, whole_usage
from forklight_model.spread.sequence import LightningSpread, SequencePass
from libs.model.tests.ordered_products import OrderedSums

DEADLINE = timedelta(minutes=4)
"""Of a message; on a GPU the first ones wait for compilers."""
TEMPERATURE = 0.8
ENTROPY_WEIGHT, BALANCE_WEIGHT = 0.3, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A forward and backward pass over packs, by processes that share sequences and experts."""

    name: str
    model: str
    dtype: str
    device: str
    packs: list[list[int]]
    """Lengths of the sequences of each."""
    world: int = 1
    """Processes; a job of one is done by one of them while the others go on."""
    sequence: int = 1
    """Processes that share a pack."""
    experts: int = 1
    """Processes that share the experts."""
    lightning: str = "heads"
    routing: str = "free"
    """"replayed": drawn experts; "skewed": nearly all rows go to the first two."""
    recomputation: dict[str, Any] | None = None
    is_ordered: bool = False
    """Products add one number after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process in a job."""

    sequence: Peers | None
    experts: Peers | None
    packs: list[int]


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
    groups = _make_groups(jobs, rank)
    for number, job in enumerate(jobs):
        if job.world == 1:
            if number % world == rank:
                _do(job, folder, rank, Place(sequence=None, experts=None, packs=list(range(len(job.packs)))))
        elif rank < job.world:
            sequence = groups.get((job.world, job.sequence))
            place = Place(
                sequence=None if sequence is None else Peers(sequence),
                experts=Peers(groups[job.world, job.experts]) if job.experts > 1 else None,
                packs=[rank // job.sequence],
            )
            _do(job, folder, rank, place)
    dist.barrier(device_ids=[rank] if uses_gpu else None)
    dist.destroy_process_group()


def _make_groups(jobs: list[Job], rank: int) -> dict[tuple[int, int], dist.ProcessGroup]:
    """By (world, size), neighbours together; each is made by all processes, members or not."""
    sizes = {(job.world, size) for job in jobs for size in (job.sequence, job.experts) if size > 1}
    groups = {}
    for world, size in sorted(sizes):
        for first in range(0, world, size):
            group = dist.new_group(list(range(first, first + size)), timeout=DEADLINE)
            if first <= rank < first + size:
                groups[world, size] = group
    return groups


def _do(job: Job, folder: Path, rank: int, place: Place) -> None:
    experts = LOCAL_EXPERTS if place.experts is None else DistributedExperts(place.experts)
    model = load_model(folder / job.model, getattr(torch, job.dtype), device=job.device, experts=experts)
    if job.recomputation is not None:
        model.recomputation = Recomputation(**job.recomputation)
    results: dict[str, Any] = {"packs": {}}
    with _products(job):
        for pack in place.packs:
            results["packs"][pack] = _learn(model, job, place, pack)
    results["gradients"] = {name: weight.grad.cpu() for name, weight in model.named_parameters()}
    torch.save(results, folder / f"{job.name}-{rank}.pt")


def _learn(model: HybridModel, job: Job, place: Place, pack: int) -> dict[str, Any]:
    """Scores a pack, adds up gradients; what blocks take in, with its gradient, is noted on the way."""
    generator = torch.Generator().manual_seed(pack)
    lengths = job.packs[pack]
    ids_T = torch.randint(model.config.vocab_size, (sum(lengths),), generator=generator)
    factors_T = torch.randn(sum(lengths), generator=generator, dtype=torch.float64).to(job.device)
    record = _recorded(job, model, len(ids_T), generator)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(device=job.device, dtype=torch.int32)
    noted: list[Tensor] = []
    hooks = [] if job.recomputation is not None else [_note(block, noted) for block in model.model.layers]
    stats, balance = _score(model, job, place, (ids_T.to(job.device), cu_seqlens, record))
    before = _sent_bytes(place)
    loss = (stats.logprobs_T * factors_T).sum() + ENTROPY_WEIGHT * stats.entropy_T.sum()
    if len(ids_T):
        loss = loss + BALANCE_WEIGHT * balance
    loss.backward()
    sent = _sent_bytes(place)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        scored, _ = _score(model, job, place, (ids_T.to(job.device), cu_seqlens, record))
    return {
        "scored": scored.logprobs_T.cpu(),
        "logprobs": stats.logprobs_T.detach().cpu(),
        "entropy": stats.entropy_T.detach().cpu(),
        "balance": balance.detach().cpu() if len(ids_T) else torch.zeros(()),
        "inputs": [each.detach().cpu() for each in noted],
        "input_gradients": [each.grad.cpu() for each in noted],
        "sent_bytes": (before, sent),
    }


def _sent_bytes(place: Place) -> tuple[int, ...]:
    """For sequences and for experts."""
    return tuple(0 if each is None else each.traffic.sent_bytes for each in (place.sequence, place.experts))


def _note(block: nn.Module, noted: list[Tensor]) -> torch.utils.hooks.RemovableHandle:
    def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        arguments[0].retain_grad()
        noted.append(arguments[0])

    return block.register_forward_pre_hook(keep)


def _score(
    model: HybridModel, job: Job, place: Place, given: tuple[Tensor, Tensor, RecordedRouting | None]
) -> tuple[TokenStats, Tensor]:
    ids_T, cu_seqlens, record = given
    peers = place.sequence
    if peers is None:
        routing = Routing(record)
        stats = token_logprobs(model, ids_T, cu_seqlens, TEMPERATURE, routing)
        return stats, routing.load_balancing_loss()
    part = PackSlice.of(ids_T, cu_seqlens, peers.shard)
    routing = Routing(None if record is None else part.slice_routing(record))
    attention = SequencePass.over(part, peers, LightningSpread(job.lightning))
    own = slice_logprobs(model, part, attention, TEMPERATURE, routing)
    assert torch.equal(own.logprobs_T != 0, part.is_scored_S)
    balance = whole_usage(routing.usage(part.num_own), peers).balancing_loss()
    return whole_stats(own, part, peers), balance


def _recorded(
    job: Job, model: HybridModel, num_tokens: int, generator: torch.Generator
) -> RecordedRouting | None:
    config = model.config
    shape = (config.num_hidden_layers, num_tokens, config.num_local_experts)
    scores_LTE = torch.rand(shape, generator=generator)
    weights_LTK = torch.softmax(torch.randn(*shape[:2], config.num_experts_per_tok, generator=generator), -1)
    if job.routing == "free":
        return None
    if job.routing == "skewed":
        scores_LTE[..., :2] += (torch.rand(*shape[:2], 1, generator=generator) < 0.9).float()
    experts_LTK = scores_LTE.argsort(dim=-1, descending=True)[..., : config.num_experts_per_tok]
    return RecordedRouting(experts_LTK=experts_LTK.to(job.device), weights_LTK=weights_LTK.to(job.device))


@contextmanager
def _products(job: Job) -> Iterator[None]:
    if job.is_ordered:
        with OrderedSums():
            yield
    else:
        yield


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
