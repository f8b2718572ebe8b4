"""The cold start: learns, counts only responses, writes a folder that the rest can load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile
from forklight_model.checkpoint import load_model, save_model
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer, load_tokenizer
from forklight_trainer.initial import initial_model
from forklight_trainer.sft.stage import SftProgress, learning_rate_share, load_demonstrations, run_sft


@pytest.fixture
def start(tmp_path: Path, make_model: Callable[[int], HybridModel]) -> RunFile:
    build_character_tokenizer().save(tmp_path / "start")
    save_model(make_model(0), tmp_path / "start")
    lines = [{"prompt": "ab", "response": "<think>ab</think>\\boxed{1}"}, {"prompt": "ba", "response": "x"}]
    demonstrations = tmp_path / "demonstrations.jsonl"
    demonstrations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sft = {"demonstrations": str(demonstrations), "steps": 60, "batch_size": 4, "learning_rate": 5e-3}
    return RunFile.model_validate({"model": {"path": str(tmp_path / "start")}, "sft": sft})


def test_run_sft_when_done_leaves_a_model_that_learned(start: RunFile, tmp_path: Path) -> None:
    seen: list[SftProgress] = []
    result = run_sft(start, tmp_path / "cold", seen.append)
    assert [progress.step for progress in seen] == list(range(1, 61))
    assert result.loss < 0.3 < 3 < seen[0].loss
    model, tokenizer = load_model(result.folder), load_tokenizer(result.folder)
    ids = torch.tensor(tokenizer.encode_prompt("ab") + tokenizer.encode("<think>ab</think>\\boxed{1}"))
    ends = torch.tensor([0, len(ids)], dtype=torch.int32)
    with torch.no_grad():
        assert float(token_logprobs(model, ids, ends).logprobs_T[5:].mean()) > -0.3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cold", "demonstrations.jsonl", "start"]


def test_run_sft_when_repeated_gives_the_same_weights(start: RunFile, tmp_path: Path) -> None:
    first, again = (load_model(run_sft(start, tmp_path / name).folder).state_dict() for name in ("a", "b"))
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_load_demonstrations_when_read_marks_tokens_and_ends_with_stop(start: RunFile) -> None:
    tokenizer = build_character_tokenizer()
    first = load_demonstrations(Path(start.sft.demonstrations), tokenizer)[0]
    names = ("<think>", "</think>", "\\boxed{", "<user>", "<assistant>", "<eos>")
    think, unthink, boxed, user, assistant, eos = (tokenizer.token_id(name) for name in names)
    assert first.prompt_ids[0] == user and first.prompt_ids[-1] == assistant
    assert [first.response_ids[i] for i in (0, 3, 4, -1)] == [think, unthink, boxed, eos]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ('{"prompt":"a"}\n', ":1 is not a JSON object"),
        ("{\n", ":1 is not"),
        (None, "No such file"),
    ],
)
def test_load_demonstrations_when_file_is_wrong_says_where(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "demonstrations.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        load_demonstrations(path, build_character_tokenizer())


def test_learning_rate_share_when_over_warms_up_and_ends_at_a_tenth() -> None:
    shares = [learning_rate_share(step, 100) for step in range(1, 101)]
    assert shares[0] == pytest.approx(0.1, rel=1e-2)
    assert max(shares) == shares[9]
    assert shares[-1] == pytest.approx(0.1)


def test_initial_model_when_fresh_depends_on_the_seed_alone() -> None:
    seeds = [RunFile.model_validate({"run": {"seed": seed}}) for seed in (1, 1, 2)]
    first, same, other = (initial_model(run_file).lm_head.weight for run_file in seeds)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
