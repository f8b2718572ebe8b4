"""The trainer's engine, checkpoints, publication and cold start with a policy of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from forklight_core.errors import CheckpointError, ConfigError
from forklight_core.runfile import RunFile, load_run_file
from forklight_model.hf.install import numerics
from forklight_model.hf.loading import load_hf_policy
from forklight_model.hf.policy import HfPolicy
from forklight_model.model import Recomputation
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.packing import Pack
from forklight_trainer.checkpoints.store import check_architecture
from forklight_trainer.durable import canonical_json
from forklight_trainer.engines import open_engine
from forklight_trainer.initial import initial_policy, initial_tokenizer
from forklight_trainer.loss.objective import LikelihoodObjective
from forklight_trainer.memory import plan_recomputation
from forklight_trainer.numerics import announce_numeric_mode
from forklight_trainer.publishing.contract import contract_hash
from forklight_trainer.publishing.folders import export_model
from forklight_trainer.sft.stage import run_sft
from libs.model.tests.hf.tiny import tiny_policy, write_folder

ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
ENDS = (0, 12, 40, 61)


def make_pack(seed: int) -> Pack:
    """Three sequences; every token but the first of each is learned from."""
    places = [place for place in range(ENDS[-1]) if place not in ENDS]
    none = torch.zeros(len(places))
    return Pack(
        input_ids_T=torch.randint(256, (ENDS[-1],), generator=torch.Generator().manual_seed(seed)),
        cu_seqlens=torch.tensor(ENDS, dtype=torch.int32),
        response_index_R=torch.tensor(places),
        behaviour_R=none,
        advantages_R=none,
        weights_R=torch.full((len(places),), 1 / len(places), dtype=torch.float64),
        versions_R=none.long(),
        sample_R=none.long(),
        sample_indices=(0,),
    )


def learn(engine: TorchEngine, seed: int) -> float:
    """One update; the loss before it."""
    (outcome,) = engine.accumulate([make_pack(seed)], LikelihoodObjective())
    engine.update(learning_rate=3e-3, grad_clip=1.0)
    engine.discard_gradients()
    return outcome.loss


def state_of(policy: HfPolicy) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}


def write_checkpoint(engine: TorchEngine, folder: Path) -> None:
    """The part of a checkpoint that is the engine's, and the configuration beside it."""
    folder.mkdir()
    snapshot = engine.snapshot()
    snapshot.write(folder)
    snapshot.release()
    (folder / "config.json").write_bytes(canonical_json(engine.config.to_published()))


@pytest.mark.parametrize(("kind", "dtype"), [("llama", torch.float32), ("qwen_moe", torch.bfloat16)])
def test_a_restored_engine_goes_on_with_the_same_numbers(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    engine = TorchEngine(tiny_policy(kind), ADAM, dtype=dtype)
    before = learn(engine, 0)
    assert learn(engine, 0) < before
    write_checkpoint(engine, tmp_path / "checkpoint")
    expected = [learn(engine, seed) for seed in (1, 2)]
    other = TorchEngine(tiny_policy(kind, seed=5), ADAM, dtype=dtype)
    other.restore(tmp_path / "checkpoint")
    assert [learn(other, seed) for seed in (1, 2)] == expected


def test_a_checkpoint_is_a_folder_to_start_from(tmp_path: Path) -> None:
    policy = tiny_policy()
    engine = TorchEngine(policy, ADAM)
    learn(engine, 0)
    write_checkpoint(engine, tmp_path / "checkpoint")
    started = load_hf_policy(tmp_path / "checkpoint")
    expected = state_of(policy)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_of(started).items())
    assert started.native.lm_head.weight is started.native.model.embed_tokens.weight


@pytest.mark.parametrize("kind", ["llama", "qwen_moe"])
def test_what_is_exported_is_what_scores(kind: str, tmp_path: Path) -> None:
    engine = TorchEngine(tiny_policy(kind), ADAM, dtype=torch.bfloat16)
    learn(engine, 0)
    export_model(engine, tmp_path / "final")
    pack = make_pack(3)
    exported = TorchEngine(load_hf_policy(tmp_path / "final"), ADAM, dtype=torch.bfloat16)
    ours, theirs = (each.score(pack, 1.0).logprobs_T for each in (engine, exported))
    assert torch.equal(ours, theirs)


def test_another_models_checkpoint_is_refused_by_what_differs(tmp_path: Path) -> None:
    engine = TorchEngine(tiny_policy("mistral"), ADAM)
    write_checkpoint(engine, tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="architectures is .*MistralForCausalLM"):
        check_architecture(tmp_path / "checkpoint", tiny_policy().config)


def test_the_contract_is_of_config_type_and_release() -> None:
    config = tiny_policy().config
    assert config.numerics == numerics()
    contracts = {
        contract_hash(config, "float32"),
        contract_hash(config, "bfloat16"),
        contract_hash(tiny_policy("mistral").config, "float32"),
    }
    assert len(contracts) == 3


def run_file_of(folder: Path, **sections: dict[str, object]) -> RunFile:
    model = {"hf": str(folder)} | sections.pop("model", {})
    return RunFile.model_validate({"model": model, "trainer": {"threads": 1}, **sections})


def test_a_run_file_opens_the_folder(tmp_path: Path) -> None:
    expected = write_folder(tmp_path / "start")
    run_file = run_file_of(tmp_path / "start")
    policy = initial_policy(run_file)
    assert all(torch.equal(tensor, state_of(expected)[name]) for name, tensor in policy.named_parameters())
    assert (
        initial_tokenizer(run_file).encode_prompt("a")[0]
        != initial_tokenizer(run_file_of(tmp_path / "start", model={"chat": False})).encode_prompt("a")[0]
    )
    mode = announce_numeric_mode(run_file, "cpu")
    assert not mode.is_parity and numerics() in mode.reason
    assert open_engine(run_file, "cpu", tmp_path).config.vocab_size == 264


def test_all_layers_are_recomputed_where_memory_cannot_be_planned(tmp_path: Path) -> None:
    config = tiny_policy().config
    for recompute, device, expected in (
        ("auto", "cuda", Recomputation()),
        ("auto", "cpu", None),
        ("all", "cpu", Recomputation()),
        ("off", "cuda", None),
    ):
        trainer = run_file_of(tmp_path, trainer={"recompute": recompute}).trainer
        assert plan_recomputation(trainer, config, device) == expected


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('[model]\nhf = "a"\npath = "b"', "model.path and model.hf are both set"),
        ("[model]\nchat = true", "model.chat is set for a fresh model"),
        ('[model]\nhf = "a"\n[parity]\nrouting_replay = true', "records no routing"),
        ('[model]\nhf = "a"\n[trainer]\nrouter_auxiliary_loss = true', "tells no router loss"),
        ('[model]\nhf = "a"\n[trainer]\nengine = "deepspeed"', 'use "torch"'),
        ('[model]\nhf = "a"\n[trainer]\nrecompute = "cheap"', "recomputes whole layers"),
        ('[model]\nhf = "a"\n[rollout]\ntensor_parallel = 2', 'use "vllm"'),
    ],
)
def test_a_run_file_that_asks_for_what_only_our_model_does_is_refused(
    tmp_path: Path, lines: str, words: str
) -> None:
    (tmp_path / "run.toml").write_text(lines)
    with pytest.raises(ConfigError, match=words):
        load_run_file(tmp_path / "run.toml")


def test_a_cold_start_teaches_and_leaves_a_folder_for_the_run(tmp_path: Path) -> None:
    write_folder(tmp_path / "start")
    lines = [{"prompt": f"{n}+1=", "response": f"\\boxed{{{n + 1}}}"} for n in range(4)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sft: dict[str, object] = {
        "demonstrations": str(tmp_path / "demos.jsonl"),
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 3e-3,
    }
    losses: list[float] = []
    result = run_sft(
        run_file_of(tmp_path / "start", sft=sft),
        tmp_path / "started",
        lambda event: losses.append(event.loss) if hasattr(event, "loss") else None,
    )
    assert result.is_finished
    assert losses[-1] < 0.6 * losses[0]
    started = run_file_of(tmp_path / "started")
    assert initial_policy(started).config.vocab_size == 264
    assert initial_tokenizer(started).encode_prompt("a") == initial_tokenizer(
        run_file_of(tmp_path / "start")
    ).encode_prompt("a")
