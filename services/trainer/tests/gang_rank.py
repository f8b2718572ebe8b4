"""One process of a sharded trainer, for the tests: RANK=r WORLD_SIZE=n ... python gang_rank.py FOLDER DEVICE.

FOLDER/jobs.json is a list of `Job`s. The first process drives each job's engine and the plain one through the
same steps and writes what differs to FOLDER/<job>.json; the others follow.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forklight_core.errors import BusyError, CheckpointError, PreconditionError
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel, Recomputation
from forklight_model.spread.experts import LOCAL_EXPERTS, ExpertPlaces
from forklight_model.spread.sequence import LightningSpread
from forklight_model.tokenizer import build_character_tokenizer
from forklight_trainer.adapters.deepspeed.engine import DeepSpeedEngine, follow
from forklight_trainer.adapters.deepspeed.gang import Gang, join_gang
from forklight_trainer.adapters.deepspeed.layout import Layout
from forklight_trainer.adapters.deepspeed.library import import_deepspeed
from forklight_trainer.adapters.deepspeed.rank import RankEngine
from forklight_trainer.adapters.deepspeed.spread import make_spread
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingSample
from forklight_trainer.batches.packing import Pack, pack_samples
from forklight_trainer.loss.cispo import WeightBounds
from forklight_trainer.loss.objective import PolicyObjective
from forklight_trainer.loss.policy_loss import LossSettings
from forklight_trainer.patience import Patience
from forklight_trainer.ports import TrainEngine
from forklight_trainer.publishing.plan import SinkManner, SinkPlan
from forklight_trainer.publishing.versions import WeightsStore

ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.1)
CONFIG = ModelConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rotary_dim=8,
    num_local_experts=4,
    num_experts_per_tok=2,
    attn_type_list=(0, 0, 1, 0),
    max_position_embeddings=512,
    initializer_range=0.1,
)
RATE, NUM_STEPS = 1e-3, 3
FULL_DISK = "full-disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An engine to compare."""

    name: str
    zero_stage: int
    sequence_parallel: int = 1
    expert_parallel: int = 1
    dtype: str = "float32"
    clip: float = 1.0
    recomputes: bool = False
    adds_router_loss: bool = False
    lightning: str = "heads"


def main(folder: Path, device: str) -> None:
    torch.set_num_threads(1)
    gang = join_gang(device)
    if gang.rank == 1:
        _fill_disk()
    for entry in json.loads((folder / "jobs.json").read_text()):
        job = Job(**entry)
        own = _own_half(job, gang)
        if gang.rank:
            follow(own)
            continue
        engine = DeepSpeedEngine(own, folder)
        found = compare(engine, job, device, folder / f"work-{job.name}")
        engine.dismiss()
        (folder / f"{job.name}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort a process that takes its time to end


def _own_half(job: Job, gang: Gang) -> RankEngine:
    layout = Layout(
        num_ranks=gang.size,
        zero_stage=job.zero_stage,
        sequence_parallel=job.sequence_parallel,
        expert_parallel=job.expert_parallel,
    )
    import_deepspeed()
    spread = make_spread(layout, gang, CONFIG, LightningSpread(job.lightning))
    return RankEngine(draw_model(job, spread.experts), ADAM, spread, dtype=getattr(torch, job.dtype))


def draw_model(job: Job, experts: ExpertPlaces = LOCAL_EXPERTS) -> HybridModel:
    model = HybridModel(CONFIG, is_initialized=False, experts=experts)
    model.initialize(torch.Generator().manual_seed(7))
    model.recomputation = Recomputation() if job.recomputes else None
    return model


def draw_packs(seed: int) -> list[Pack]:
    """Seven samples in five packs: no number of lanes divides them."""
    chance = np.random.default_rng(seed)
    samples = [_draw_sample(chance, place) for place in range(7)]
    advantages = [float(each) for each in chance.normal(size=7)]
    return pack_samples(samples, advantages, pack_tokens=64)


def _draw_sample(chance: np.random.Generator, place: int) -> TrainingSample:
    num_prompt, num_response = int(chance.integers(2, 9)), int(chance.integers(9, 45))
    return TrainingSample(
        sample_id=f"s{place}",
        prompt_ids=chance.integers(0, CONFIG.vocab_size, num_prompt).astype(np.int32),
        response_ids=chance.integers(0, CONFIG.vocab_size, num_response).astype(np.int32),
        behaviour_logprobs=(-4.5 + chance.normal(0, 0.3, num_response)).astype(np.float32),
        versions=np.zeros(num_response, dtype=np.int64),
        reward=0.0,
    )


def objective(packs: Sequence[Pack], job: Job) -> PolicyObjective:
    return PolicyObjective(
        settings=LossSettings(weight_bounds=WeightBounds(low=0.0, high=5.0), mask_bounds=None),
        temperature=1.0,
        num_fed_tokens=sum(len(pack.input_ids_T) for pack in packs),
        router_coefficient=0.5 if job.adds_router_loss else None,
    )


def learn(engine: TrainEngine, job: Job, seed: int) -> tuple[float, float, list[torch.Tensor]]:
    """Loss, gradient norm and log-probs of a step."""
    packs = draw_packs(seed)
    outcomes = engine.accumulate(packs, objective(packs, job))
    norm = engine.update(learning_rate=RATE, grad_clip=job.clip)
    engine.discard_gradients()
    return sum(each.loss for each in outcomes), norm, [each.logprobs_R for each in outcomes]


def compare(engine: DeepSpeedEngine, job: Job, device: str, work: Path) -> dict[str, float]:
    """Largest differences from one process that computes all of it."""
    plain = TorchEngine(draw_model(job), ADAM, dtype=getattr(torch, job.dtype), device=device)
    _spoil(engine, job)
    found: dict[str, float] = {"loss": 0.0, "norm": 0.0, "first_logprobs": 0.0}
    for step in range(NUM_STEPS):
        (ours, our_norm, our_logprobs), (theirs, norm, logprobs) = (
            learn(each, job, step) for each in (engine, plain)
        )
        found["loss"] = max(found["loss"], abs(ours - theirs))
        found["norm"] = max(found["norm"], abs(our_norm - norm) / norm)
        if step == 0:
            found["first_logprobs"] = _worst(our_logprobs, logprobs)
    probe = draw_packs(99)[0]
    scores = [each.score(probe, 1.0).logprobs_T for each in (engine, plain)]
    found["score"] = _worst(scores[:1], scores[1:])
    found |= _checkpoints(engine, plain, job, device, work)
    found |= _published(engine, plain, work)
    found |= _scores_version(engine, plain, job, work)
    found |= _errors(engine, work)
    found["refuses_nan"] = float(_refuses_nan(engine, job))
    return found


def _spoil(engine: TrainEngine, job: Job) -> None:
    """Gradients that are discarded must not count."""
    packs = draw_packs(50)
    engine.accumulate(packs[:3], objective(packs, job))
    engine.discard_gradients()


def _checkpoints(
    engine: DeepSpeedEngine, plain: TorchEngine, job: Job, device: str, work: Path
) -> dict[str, float]:
    """Sharded to plain and to itself, and plain to sharded: each goes on as the one that was saved."""
    for source, name in ((engine, "sharded"), (plain, "plain")):
        snapshot = source.snapshot()
        (work / name).mkdir(parents=True)
        snapshot.write(work / name)
        snapshot.release()
    _, norm, _ = learn(engine, job, 10)
    weights = _weights(engine, work / "after")
    engine.restore(work / "sharded")
    _, again, _ = learn(engine, job, 10)
    same = _worst_of(weights, _weights(engine, work / "again"))
    other = TorchEngine(draw_model(job), ADAM, dtype=getattr(torch, job.dtype), device=device)
    other.restore(work / "sharded")
    _, plain_norm, _ = learn(other, job, 10)
    crossed = _worst_of(weights, _weights(other, work / "crossed"))
    engine.restore(work / "plain")
    _, from_plain, _ = learn(engine, job, 10)
    _, wanted, _ = learn(plain, job, 10)
    return {
        "resumed_norm": abs(again - norm),
        "resumed_weights": same,
        "to_plain_norm": abs(plain_norm - norm) / norm,
        "to_plain_weights": crossed,
        "from_plain_norm": abs(from_plain - wanted) / wanted,
    }


def _published(engine: TrainEngine, plain: TrainEngine, work: Path) -> dict[str, float]:
    """Every tensor once, by the published names."""
    ours, theirs = (_weights(each, work / f"end-{place}") for place, each in enumerate((engine, plain)))
    return {"published": _worst_of(ours, theirs), "num_published": float(len(ours))}


def _scores_version(engine: DeepSpeedEngine, plain: TorchEngine, job: Job, work: Path) -> dict[str, float]:
    """After an update, the version before it still says what it said; so do the plain engine and it."""
    store = WeightsStore(
        folder=work / "versions",
        run_id="gang",
        tokenizer=build_character_tokenizer(),
        dtype=job.dtype,
        contract="c",
    )
    store.publish(engine, version=1, step=1)
    pack = draw_packs(98)[0]
    live = engine.score(pack, 1.0).logprobs_T
    learn(engine, job, 11)
    folder = store.version_folder(1)
    ours, theirs = (each.score_version(folder, pack, 1.0) for each in (engine, plain))
    assert ours is not None and theirs is not None
    return {
        "version_is_live": _worst([ours], [live]),
        "version_is_plain": _worst([ours], [theirs]),
        "version_has_moved": _worst([ours], [engine.score(pack, 1.0).logprobs_T]),
    }


def _errors(engine: DeepSpeedEngine, work: Path) -> dict[str, float]:
    """A full disk of the second process is waited out; what lasts keeps its kind."""
    attempts = [work / FULL_DISK, work / "roomy"]
    for folder in attempts:
        folder.mkdir(parents=True)
    said: list[str] = []

    def publish() -> int:
        try:
            # One lane: it fails at the first tensor, and most weights are still to be gathered.
            plan = SinkPlan(folder=attempts[len(said)], manner=SinkManner(num_lanes=1))
            return len(engine.publish(plan))
        except BusyError as error:
            said.append(str(error))
            raise

    num_written = Patience(threading.Event()).call("publish", publish)
    try:
        engine.restore(work / "nowhere")
    except CheckpointError as error:
        said.append(str(error))
    others = all(text.startswith(f"process {rank}: ") for text, rank in zip(said, (1, 0), strict=True))
    return {"num_written_at_last": float(num_written), "errors_keep_their_kind": float(others)}


def _fill_disk() -> None:
    """From now on this process has no room in folders of that name: the kernel itself says so."""
    real_open = os.open

    def open_or_full(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if Path(os.fsdecode(path)).parent.name == FULL_DISK:
            return real_open("/dev/full", os.O_WRONLY)
        return real_open(path, flags, *rest, **options)

    os.open = open_or_full


def _weights(engine: TrainEngine, folder: Path) -> dict[str, torch.Tensor]:

    folder.mkdir(parents=True)
    entries = engine.publish(SinkPlan(folder=folder))
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names)), "a tensor was published twice"
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        from safetensors.torch import load_file

        found |= load_file(path)
    assert sorted(found) == names
    return found


def _refuses_nan(engine: TrainEngine, job: Job) -> bool:
    """A gradient that is no number is an error, and the weights stay."""
    packs = draw_packs(3)
    before = engine.score(packs[0], 1.0).logprobs_T
    packs[1].advantages_R.fill_(float("nan"))
    engine.accumulate(packs, objective(packs, job))
    try:
        engine.update(learning_rate=RATE, grad_clip=job.clip)
    except PreconditionError as error:
        refused = "gradient norm" in str(error)
    else:
        refused = False
    engine.discard_gradients()
    after = engine.score(packs[0], 1.0).logprobs_T
    return refused and torch.equal(before, after)


def _worst(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


def _worst_of(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return _worst([ours[name] for name in ours], [theirs[name] for name in ours])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
