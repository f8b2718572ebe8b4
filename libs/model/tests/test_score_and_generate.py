"""Scoring a file and generating an answer, from a model folder on disk."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.checkpoint import save_model
from forklight_model.generate import FinishReason, generate_from_ids, generate_text
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.score import score_file
from forklight_model.tokenizer import build_character_tokenizer


@pytest.fixture
def folder(model: HybridModel, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    build_character_tokenizer().save(tmp_path / "model")
    return tmp_path / "model"


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


def test_scoring_writes_the_log_probability_of_every_next_token(
    model: HybridModel, folder: Path, tmp_path: Path
) -> None:
    input_ids = torch.randint(103, (3, 70))
    tokens = write(tmp_path / "tokens.safetensors", {"input_ids": input_ids.to(torch.int32)})
    score_file(folder, tokens, tmp_path / "out.safetensors")
    (name, logprobs), *others = load_file(tmp_path / "out.safetensors").items()
    assert name == "next_token_logprobs" and logprobs.dtype == torch.float32 and not others
    cu_seqlens = torch.tensor([0, 70, 140, 210], dtype=torch.int32)
    expected = token_logprobs(model, input_ids.view(-1), cu_seqlens).logprobs_T.view(3, 70)[:, 1:]
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)


def test_scoring_the_golden_file_gives_the_published_log_probabilities(
    golden_dir: Path, tmp_path: Path
) -> None:
    score_file(golden_dir, golden_dir / "golden.safetensors", tmp_path / "out.safetensors")
    expected = load_file(golden_dir / "golden.safetensors")["next_token_logprobs"]
    assert (load_file(tmp_path / "out.safetensors")["next_token_logprobs"] - expected).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"tokens": torch.zeros(2, 4, dtype=torch.int64)}, r"holds \['tokens'\]"),
        ({"input_ids": torch.zeros(4, dtype=torch.int64)}, r"is \(4,\)"),
        ({"input_ids": torch.zeros(2, 1, dtype=torch.int64)}, "T >= 2"),
        ({"input_ids": torch.zeros(0, 5, dtype=torch.int64)}, "B >= 1"),
        ({"input_ids": torch.zeros(2, 4)}, "expected integers"),
        ({"input_ids": torch.tensor([[0, 103]])}, "from 0 to 103, the vocabulary from 0 to 102"),
        ({"input_ids": torch.tensor([[-1, 5]])}, "from -1 to 5"),
    ],
)
def test_wrong_token_files_are_refused(
    folder: Path, tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        score_file(folder, write(tmp_path / "tokens.safetensors", tensors), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_unreadable_token_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="does not exist"):
        score_file(folder, tmp_path / "none.safetensors", tmp_path / "out.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(InvalidInputError, match="not a readable"):
        score_file(folder, tmp_path / "bad.safetensors", tmp_path / "out.safetensors")


def test_generation_is_reproducible_and_its_log_probabilities_are_the_models(
    model: HybridModel, folder: Path
) -> None:
    first = generate_text(folder, "1 + 1 = ?", max_new_tokens=12, temperature=0.7, seed=3)
    assert generate_text(folder, "1 + 1 = ?", max_new_tokens=12, temperature=0.7, seed=3) == first
    assert generate_text(folder, "1 + 1 = ?", max_new_tokens=12, temperature=0.7, seed=4) != first
    tokenizer = build_character_tokenizer()
    assert first.text == tokenizer.decode(list(first.token_ids))
    prompt_ids = tokenizer.encode_prompt("1 + 1 = ?")
    sequence = torch.tensor([*prompt_ids, *first.token_ids])
    stats = token_logprobs(
        model, sequence, torch.tensor([0, len(sequence)], dtype=torch.int32), temperature=0.7
    )
    torch.testing.assert_close(
        torch.tensor(first.logprobs), stats.logprobs_T[len(prompt_ids) :].detach(), rtol=0, atol=1e-4
    )


def test_generation_stops_at_the_stop_token(model: HybridModel, folder: Path) -> None:
    eos = build_character_tokenizer().token_id("<eos>")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[eos] = 9 * torch.sign(
            model.forward_hidden(torch.tensor([5]), torch.tensor([0, 1], dtype=torch.int32))[0]
        )
    save_model(model, folder)
    stopped = generate_from_ids(folder, [5], max_new_tokens=9, temperature=0.0)
    assert stopped.token_ids == (eos,) and stopped.finish_reason is FinishReason.STOP and stopped.text == ""
    model.lm_head.weight.data[eos] = 0
    save_model(model, folder)
    assert (
        generate_from_ids(folder, [5], max_new_tokens=9, temperature=0.0).finish_reason is FinishReason.LENGTH
    )


def test_a_folder_without_tokenizer_takes_prompt_ids(model: HybridModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"tokenizer\.json does not exist(.*)prompt_ids"):
        generate_text(tmp_path / "bare", "hello")
    generation = generate_from_ids(tmp_path / "bare", [1, 2, 3], max_new_tokens=4)
    assert len(generation.token_ids) == 4 and generation.text == ""


@pytest.mark.parametrize(
    ("prompt_ids", "settings", "message"),
    [
        ([], {}, "prompt is empty"),
        ([103], {}, r"holds \[103\]"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens"),
        ([1], {"temperature": -1.0}, "temperature"),
        ([1], {"top_p": 0.0}, "top_p"),
    ],
)
def test_wrong_generation_settings_are_refused(
    folder: Path, prompt_ids: list[int], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        generate_from_ids(folder, prompt_ids, **settings)
