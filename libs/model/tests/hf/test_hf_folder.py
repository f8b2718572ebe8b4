"""Folders of transformers models: read whole, written as transformers writes them, refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from forklight_core.errors import CheckpointError, ConfigError
from forklight_model.checkpoint import load_model, save_model
from forklight_model.generate import generate_from_ids, generate_text
from forklight_model.hf import install
from forklight_model.hf.loading import load_hf_policy
from forklight_model.planning.chosen import choose_run
from forklight_model.planning.hardware import GPUS
from forklight_model.policies import load_policy, load_policy_config, numeric_mode_of
from forklight_model.score import score_file
from libs.model.tests.hf.tiny import KINDS, edit_json, tiny_policy, write_folder

SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody may change."""
    path = tmp_path_factory.mktemp("hf") / "llama"
    write_folder(path)
    return path


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_written_is_what_transformers_writes(kind: str, tmp_path: Path) -> None:
    policy = write_folder(tmp_path / "theirs", kind)
    save_model(policy, tmp_path / "ours", max_shard_bytes=20_000)
    theirs = load_file(tmp_path / "theirs" / SHARD)
    ours = {}
    for path in (tmp_path / "ours").glob("*.safetensors"):
        ours |= load_file(path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    read = load_hf_policy(tmp_path / "ours")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, policy.state_dict()[name])
        assert torch.equal(tensor, read.state_dict()[name])
    assert read.num_parameters == sum(each.numel() for each in policy.parameters())


def test_a_tied_head_is_one_tensor_everywhere(folder: Path) -> None:
    policy = load_hf_policy(folder)
    assert policy.native.lm_head.weight is policy.native.model.embed_tokens.weight
    names = [name for name, _ in policy.published_tensors()]
    assert "lm_head.weight" not in names
    assert "lm_head.weight" not in policy.parameter_shapes


def test_a_folder_says_what_it_is(folder: Path) -> None:
    config = load_policy_config(folder)
    assert (config.vocab_size, config.max_position_embeddings) == (264, 512)
    assert config.numerics == install.numerics()
    assert config.to_published() == json.loads((folder / "config.json").read_text())
    mode = numeric_mode_of(config, "cpu", torch.float32)
    assert not mode.is_parity
    assert "transformers" in mode.reason
    with pytest.raises(ConfigError, match="model.hf"):
        load_model(folder)


def test_score_and_generate_take_the_folder(folder: Path, tmp_path: Path) -> None:
    ids_BT = torch.randint(264, (2, 20), generator=torch.Generator().manual_seed(3))
    save_file({"input_ids": ids_BT}, tmp_path / "tokens.safetensors")
    score_file(folder, tmp_path / "tokens.safetensors", tmp_path / "scores.safetensors")
    scores_BT = load_file(tmp_path / "scores.safetensors")["next_token_logprobs"]
    logits_BTV = load_hf_policy(folder).native(input_ids=ids_BT).logits[:, :-1]
    expected_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:, None]).squeeze(2)
    torch.testing.assert_close(scores_BT, expected_BT, rtol=0, atol=2e-5)

    answer = generate_from_ids(folder, [5, 6, 7], max_new_tokens=8, temperature=0)
    policy = load_hf_policy(folder)
    ids = [5, 6, 7]
    for token in answer.token_ids:
        assert token == int(policy.native(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
    assert generate_text(folder, "hi", max_new_tokens=4, seed=1).token_ids


def test_a_plan_of_a_model_that_is_not_ours_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'[model]\nhf = "{folder}"\n')
    with pytest.raises(ConfigError, match="model.hf"):
        choose_run(str(tmp_path / "run.toml"), next(iter(GPUS.values())), 1)


def test_new_weights_go_into_an_old_policy_by_name(tmp_path: Path) -> None:
    save_model(tiny_policy("qwen_moe", 1), tmp_path / "new")
    policy, loaded = tiny_policy("qwen_moe", 0), load_policy(tmp_path / "new")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(dict(loaded.named_parameters())[name])
    expected = dict(tiny_policy("qwen_moe", 1).published_tensors())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in policy.published_tensors())


Spoil = Callable[[Path], object]


def drop(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def set_config(**values: object) -> Spoil:
    return lambda folder: edit_json(folder / "config.json", lambda content: content.update(values))


def set_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / SHARD)
        change(tensors)
        save_file(tensors, folder / SHARD)

    return spoil


REFUSALS: tuple[tuple[Spoil, type[Exception], str], ...] = (
    (drop("config.json"), ConfigError, "config.json does not exist"),
    (drop(SHARD), CheckpointError, "the weights are missing"),
    (set_config(model_type="wonder"), ConfigError, "'wonder' is not known to transformers 5"),
    (set_config(model_type="wonder", auto_map={"AutoConfig": "x.Y"}), ConfigError, "is never run"),
    (set_config(model_type="t5"), ConfigError, "no causal language model"),
    (set_config(model_type="bert"), ConfigError, "is BertLMHeadModel"),
    (
        set_config(model_type="bert", architectures=["BertLMHeadModel"]),
        ConfigError,
        "an encoder reads both ways",
    ),
    (
        set_config(architectures=["LlamaModel"]),
        ConfigError,
        "for model_type = 'llama' that is LlamaForCausalLM",
    ),
    (
        set_config(quantization_config={"quant_method": "x"}),
        ConfigError,
        "quantised weights cannot be trained",
    ),
    (
        set_config(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        ConfigError,
        "rope_type = 'dynamic'",
    ),
    (set_config(vocab_size="many"), ConfigError, "cannot read this config.json"),
    (
        set_tensors(lambda tensors: tensors.pop("model.norm.weight")),
        CheckpointError,
        "missing model.norm.weight",
    ),
    (
        set_tensors(lambda tensors: tensors.update({"odd.weight": torch.ones(2)})),
        CheckpointError,
        "unknown odd.weight",
    ),
    (
        set_tensors(lambda tensors: tensors.update({"model.norm.weight": torch.ones(2)})),
        CheckpointError,
        "of another shape .*model.norm.weight",
    ),
    (lambda folder: (folder / SHARD).write_bytes(b"torn"), CheckpointError, "truncated or corrupt"),
)


@pytest.mark.parametrize(("spoil", "error", "words"), REFUSALS, ids=[words for _, _, words in REFUSALS])
def test_a_folder_that_cannot_be_the_policy_is_refused_by_name(
    own: Path, spoil: Spoil, error: type[Exception], words: str
) -> None:
    spoil(own)
    with pytest.raises(error, match=words):
        load_policy(own)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}, ""),
        (
            {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "final_logit_softcapping": 30.0},
            "final_logit_softcapping = 30.0",
        ),
        ({"architectures": ["PhiForCausalLM"], "model_type": "phi"}, "adds a bias to its logits"),
        ({"architectures": ["GraniteForCausalLM"], "model_type": "granite", "logits_scaling": 3.0}, ""),
    ],
    ids=["gemma", "soft cap", "bias", "scaled"],
)
def test_a_head_is_understood_or_refused(tmp_path: Path, values: dict[str, object], words: str) -> None:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    shared = {key: value for key, value in KINDS["mistral"].items() if key != "sliding_window"}
    config = CONFIG_MAPPING[values["model_type"]].from_dict({**shared, **values})
    torch.manual_seed(0)
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(tmp_path)
    if words:
        with pytest.raises(ConfigError, match=words):
            load_policy(tmp_path)
        return
    policy = load_hf_policy(tmp_path)
    ids_BT = torch.arange(12)[None]
    with torch.no_grad():
        ours_TV = policy.logits(policy.read(ids_BT)[0])
        torch.testing.assert_close(ours_TV, policy.native(input_ids=ids_BT).logits[0], rtol=0, atol=1e-4)


def test_without_transformers_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release, words in (
        (None, r'is not installed: pip install "forklight-model\[hf\]"'),
        ("4.57.1", "5.x"),
    ):
        monkeypatch.setattr(install, "installed_release", lambda release=release: release)
        install.require_transformers.cache_clear()
        with pytest.raises(ConfigError, match=words):
            load_policy(folder)
    monkeypatch.undo()
    install.require_transformers.cache_clear()
    assert load_policy_config(folder).vocab_size == 264
