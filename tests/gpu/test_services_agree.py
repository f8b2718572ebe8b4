"""On a GPU in parity mode, a pod's log-probs and experts are the trainer's own, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from forklight_core.runfile import RunFile
from forklight_core.wire import unpack_payload
from forklight_model.model import HybridModel
from forklight_model.parity import SELF_TEST, check_numeric_mode
from forklight_model.parts import PartsReader, StateKey
from forklight_model.routing import Routing
from forklight_rollout.adapters.native import NativeEngine, NativeOptions
from forklight_rollout.adapters.native.factory import plan_engine
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork, SampleStart
from forklight_rollout.leases.trajectory import build_payload
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch, TrainingGroup, TrainingSample
from forklight_trainer.batches.packing import pack_samples
from forklight_trainer.batches.replay import replay_routing
from forklight_trainer.loss.objective import LikelihoodObjective
from forklight_trainer.steps.step import PolicyState, StepOutcome, step_settings, train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

CONFIG = dataclasses.replace(
    SELF_TEST, num_hidden_layers=3, attn_type_list=(0, 1, 0), max_position_embeddings=4096
)
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
PROMPT_LENGTHS = (1300, 1, 64, 130)  # over a piece of prefill, the shortest, a chunk, and between
NUM_SAMPLES, NUM_NEW = 3, 70
CONTRACT = "c"


def fresh_model() -> HybridModel:
    model = HybridModel(CONFIG, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(5))
    return model


def rolled_out(device: str, dtype: torch.dtype, *, records_routing: bool) -> list[FinishedSample]:
    """Four groups at once; more sequences than places, so that slots move and prompts wait."""
    wish = MemoryWish(max_batch=8, max_prompt_tokens=1310, max_new_tokens=90, budget_bytes=2**31)
    options = NativeOptions(
        dtype=str(dtype).removeprefix("torch."), device=device, records_routing=records_routing
    )
    model = fresh_model().to(device=device, dtype=dtype).requires_grad_(False)
    engine = NativeEngine(model, plan_engine(wish, options, model, device), options, version=0)
    generator = Generator(engine)
    for index, length in enumerate(PROMPT_LENGTHS):
        generator.add(make_group(index, length))
    finished: list[FinishedSample] = []
    while not generator.is_idle:
        finished += generator.step()
    return sorted(finished, key=lambda sample: sample.sample_id)


def make_group(index: int, num_prompt_tokens: int) -> GroupWork:
    group_id = f"r/g{index:08d}"
    draw, end = DrawRules(temperature=1.0), EndRules(max_new_tokens=NUM_NEW - 9 * index)
    prompt_ids = tuple((17 * place + index) % CONFIG.vocab_size for place in range(num_prompt_tokens))
    samples = tuple(
        SampleStart(sample_id=f"{group_id}/s{place:03d}", seed=100 * index + place)
        for place in range(NUM_SAMPLES)
    )
    return GroupWork(group_id=group_id, prompt_ids=prompt_ids, draw=draw, end=end, samples=samples)


def received(sample: FinishedSample, place: int) -> TrainingSample:
    arrays = unpack_payload(build_payload(sample, decode=lambda ids: "", contract=CONTRACT))
    return TrainingSample(
        sample_id=arrays.sample_id,
        prompt_ids=arrays.prompt_ids,
        response_ids=arrays.response_ids,
        behaviour_logprobs=arrays.logprobs,
        versions=np.zeros(len(arrays.response_ids), dtype=np.int64),
        reward=float(place % 2),
        contract=CONTRACT,
        routing=arrays.routing,
    )


def learned(
    samples: list[FinishedSample], device: str, dtype: torch.dtype, **parity: bool
) -> tuple[TorchEngine, StepOutcome]:
    """One update on the trainer's own weights of the same version."""
    received_samples = [received(sample, place) for place, sample in enumerate(samples)]
    groups = tuple(
        TrainingGroup(
            group_id=f"r/g{index:08d}", samples=tuple(received_samples[first : first + NUM_SAMPLES])
        )
        for index, first in enumerate(range(0, len(samples), NUM_SAMPLES))
    )
    run_file = RunFile.model_validate({"trainer": {"pack_tokens": 3000}, "parity": parity})
    mode = check_numeric_mode(device, dtype)
    engine = TorchEngine(fresh_model(), ADAM, dtype=dtype, device=device)
    policy = PolicyState(version=0, is_published=True, contract=CONTRACT, find_version=lambda version: None)
    batch = TrainingBatch(batch_id="r/b1", step=1, groups=groups)
    settings = step_settings(run_file, is_parity_mode=mode.is_parity)
    return engine, train_step(engine, batch, settings, policy)


def test_log_probs_are_equal_in_bits_when_the_self_test_says_parity() -> None:
    mode = check_numeric_mode("cuda", torch.bfloat16)
    samples = rolled_out("cuda", torch.bfloat16, records_routing=False)
    _, outcome = learned(samples, "cuda", torch.bfloat16, require_equal=True)
    assert mode.is_parity, mode.reason
    assert outcome.parity.num_tokens == sum(len(sample.response.ids) for sample in samples)
    assert outcome.parity.num_unequal == 0


def test_replayed_choices_are_the_trainers_own_in_parity_mode() -> None:
    samples = rolled_out("cuda", torch.bfloat16, records_routing=True)
    received_samples = [received(sample, place) for place, sample in enumerate(samples)]
    packs = pack_samples(received_samples, [0.0] * len(samples), pack_tokens=3000)
    model = fresh_model().to(device="cuda", dtype=torch.bfloat16)
    for pack in replay_routing(packs, received_samples, CONFIG):
        assert pack.routing is not None
        free = Routing()
        with torch.no_grad():
            model.forward_hidden(pack.input_ids_T.cuda(), pack.cu_seqlens.cuda(), free)
        is_fed_T = torch.ones(len(pack.input_ids_T), dtype=torch.bool)
        is_fed_T[pack.cu_seqlens[1:].long() - 1] = False
        recorded = free.recorded
        assert torch.equal(
            recorded.experts_LTK.cpu()[:, is_fed_T], pack.routing.experts_LTK[:, is_fed_T].long()
        )
        assert torch.equal(recorded.weights_LTK.cpu()[:, is_fed_T], pack.routing.weights_LTK[:, is_fed_T])
    _, outcome = learned(samples, "cuda", torch.bfloat16, require_equal=True, routing_replay=True)
    assert outcome.parity.num_unequal == 0


def test_an_optimizer_restored_on_a_gpu_goes_on_as_it_was(tmp_path: Path) -> None:
    samples = rolled_out("cuda", torch.bfloat16, records_routing=False)
    engine, _ = learned(samples, "cuda", torch.bfloat16)
    _saved(engine, tmp_path / "half-way")
    other = TorchEngine(fresh_model(), ADAM, dtype=torch.bfloat16, device="cuda")
    other.restore(tmp_path / "half-way")
    received_samples = [received(sample, place) for place, sample in enumerate(samples)]
    packs = pack_samples(received_samples, [1.0] * len(samples), pack_tokens=3000)
    norms = []
    for each in (engine, other):
        each.accumulate(packs, LikelihoodObjective())
        norms.append(each.update(learning_rate=1e-4, grad_clip=1.0))
        each.discard_gradients()
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    with (
        PartsReader(_saved(engine, tmp_path / "a")) as ours,
        PartsReader(_saved(other, tmp_path / "b")) as theirs,
    ):
        assert ours.adam_step == theirs.adam_step == 2
        for name in ours.shapes:
            one, another = (each.read(name, StateKey.WEIGHT) for each in (ours, theirs))
            torch.testing.assert_close(one, another, rtol=0, atol=3e-4)


def _saved(engine: TorchEngine, folder: Path) -> Path:
    snapshot = engine.snapshot()
    snapshot.write(folder)
    snapshot.release()
    return folder
