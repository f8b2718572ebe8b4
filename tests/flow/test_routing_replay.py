"""Rollout's experts, chosen token by token, are the trainer's experts in one pass, over the real wire."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import torch

from forklight_core.wire import unpack_payload
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.routing import Routing
from forklight_model.sizes import SIZES
from forklight_rollout.adapters.native import NativeEngine, NativeOptions
from forklight_rollout.adapters.native.factory import plan_engine
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork, SampleStart
from forklight_rollout.leases.trajectory import build_payload
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingSample
from forklight_trainer.batches.packing import Pack, pack_samples
from forklight_trainer.batches.replay import replay_routing
from forklight_trainer.loss.objective import LikelihoodObjective
from forklight_trainer.steps.parity import measure_parity
from tests.flow.one_process import run_all, write_run

NANO = SIZES["nano"]
PROMPT = tuple(7 + index * 13 % 90 for index in range(40))
NUM_SAMPLES, NUM_NEW = 4, 32
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
DEADLINE_S = 90.0


def nano_model(*, router_noise: float = 0.0) -> HybridModel:
    """The same weights every time, but for the routers."""
    model = HybridModel(NANO, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(3))
    chance = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for block in model.model.layers:
            gate_ED = block.block_sparse_moe.gate.weight
            gate_ED.add_(router_noise * torch.randn(gate_ED.shape, generator=chance))
    return model


def rolled_out() -> list[FinishedSample]:
    """A group of samples, generated with recording on."""
    wish = MemoryWish(max_batch=NUM_SAMPLES, max_prompt_tokens=64, max_new_tokens=64, budget_bytes=0)
    options = NativeOptions(dtype="float32", device="cpu", records_routing=True)
    model = nano_model().requires_grad_(False)
    generator = Generator(NativeEngine(model, plan_engine(wish, options, model, "cpu"), options, version=0))
    draw, end = DrawRules(temperature=1.0), EndRules(max_new_tokens=NUM_NEW)
    samples = tuple(SampleStart(sample_id=f"r/g00000000/s{i:03d}", seed=i) for i in range(NUM_SAMPLES))
    generator.add(GroupWork(group_id="r/g00000000", prompt_ids=PROMPT, draw=draw, end=end, samples=samples))
    finished: list[FinishedSample] = []
    while not generator.is_idle:
        finished += generator.step()
    return sorted(finished, key=lambda sample: sample.sample_id)


def received(sample: FinishedSample) -> TrainingSample:
    """What the trainer reads from the sample's blob."""
    arrays = unpack_payload(build_payload(sample, decode=lambda ids: "", contract="c"))
    return TrainingSample(
        sample_id=arrays.sample_id,
        prompt_ids=arrays.prompt_ids,
        response_ids=arrays.response_ids,
        behaviour_logprobs=arrays.logprobs,
        versions=np.zeros(len(arrays.response_ids), dtype=np.int64),
        reward=0.0,
        routing=arrays.routing,
    )


def chosen(model: HybridModel, pack: Pack, routing: Routing) -> torch.Tensor:
    with torch.no_grad():
        token_logprobs(model, pack.input_ids_T, pack.cu_seqlens, 1.0, routing)
    return routing.recorded.experts_LTK


def test_replay_reproduces_rollouts_choices_when_the_trainers_routers_differ() -> None:
    samples = [received(sample) for sample in rolled_out()]
    (plain,) = pack_samples(samples, [1.0, -1.0, 1.0, -1.0], pack_tokens=512)
    (pack,) = replay_routing([plain], samples, NANO)
    assert pack.routing is not None
    model, replayed = nano_model(router_noise=0.002), Routing(pack.routing)
    differ_LT = (chosen(model, pack, Routing()) != pack.routing.experts_LTK).any(dim=-1)
    assert 0.005 < float(differ_LT.float().mean()) < 0.9
    assert torch.equal(chosen(model, pack, replayed), pack.routing.experts_LTK.long())
    assert torch.equal(replayed.recorded.weights_LTK, pack.routing.weights_LTK)

    engine = TorchEngine(model, ADAM)
    found = {}
    for name, each in (("free", plain), ("replayed", pack)):
        logprobs_R = engine.score(each, 1.0).logprobs_T[each.response_index_R]
        found[name] = measure_parity(logprobs_R, each.behaviour_R, version=0)
    assert found["replayed"].max_dp < 1e-4
    assert found["free"].max_dp > 3 * found["replayed"].max_dp

    engine.accumulate([pack], LikelihoodObjective())
    for block in model.model.layers:
        gradient_ED = block.block_sparse_moe.gate.weight.grad
        assert gradient_ED is not None and float(gradient_ED.abs().max()) > 0


async def test_a_run_with_replay_and_router_loss_learns_and_says_so(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "prompt": f"{i}+1=", "kind": "math", "gold": str(i + 1)} for i in range(9)]
    run_file = write_run(tmp_path, steps=2, rows=rows)
    text = run_file.read_text().replace("[trainer]\n", "[trainer]\nrouter_auxiliary_loss = true\n")
    run_file.write_text(f"{text}routing_replay = true\n")
    async with run_all(tmp_path, run_file) as system:
        async with asyncio.timeout(DEADLINE_S):
            await system.trainer_ended.wait()
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert step["max_dp"] < 1e-3
        assert NANO.num_experts_per_tok * 0.9 < step["router_auxiliary_loss"] < NANO.num_local_experts
        assert 0 <= step["unequal_tokens"] <= step["parity_tokens"]
