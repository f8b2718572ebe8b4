"""The cold start: learns, says how it goes, can be stopped and resumed, leaves a folder the rest can load."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forklight_core.errors import CheckpointError, ConfigError, DataLossError, PreconditionError
from forklight_core.runfile import RunFile
from forklight_model.checkpoint import load_model, save_model
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer, load_tokenizer
from forklight_trainer.initial import initial_model
from forklight_trainer.sft.events import Event, HoldoutRound, SftProgress, SftResult, StageSaved, StageStart
from forklight_trainer.sft.schedule import learning_rate_at
from forklight_trainer.sft.stage import SftOptions, check_sft, run_sft

LINES = [{"prompt": "ab", "response": "<think>ab</think>\\boxed{1}"}, {"prompt": "ba", "response": "x"}]
Start = Callable[..., RunFile]


def write_lines(path: Path, lines: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def make_start(tmp_path: Path, make_model: Callable[[int], HybridModel]) -> Start:
    build_character_tokenizer().save(tmp_path / "start")
    save_model(make_model(0), tmp_path / "start")
    demonstrations = write_lines(tmp_path / "demonstrations.jsonl", list(LINES))

    def make(**sft: object) -> RunFile:
        given = {"demonstrations": demonstrations, "steps": 60, "batch_size": 4, "learning_rate": 5e-3} | sft
        return RunFile.model_validate({"model": {"path": str(tmp_path / "start")}, "sft": given})

    return make


def weights(folder: Path) -> dict[str, bytes]:
    """Every file of a result."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class StopAfter:
    """Listens, and sets the stop once so many steps were told."""

    def __init__(self, num_steps: int | None = None, kill: type[BaseException] | None = None) -> None:
        self.options = SftOptions(resume=True, stop=threading.Event(), device="cpu")
        self.events: list[Event] = []
        self._num_steps, self._kill = num_steps, kill

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._num_steps is not None and len(self.of(SftProgress)) >= self._num_steps:
            if self._kill:
                raise self._kill
            self.options.stop.set()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, SftProgress)]


def test_run_sft_when_done_leaves_a_model_that_learned(make_start: Start, tmp_path: Path) -> None:
    told = StopAfter()
    result = run_sft(make_start(), tmp_path / "cold", told)
    assert told.steps == list(range(1, 61))
    first = told.of(SftProgress)[0]
    assert isinstance(first, SftProgress) and result.is_finished and result.loss is not None
    assert result.loss < 0.3 < 3 < first.loss
    assert told.events[-1] == result
    model, tokenizer = load_model(result.folder), load_tokenizer(result.folder)
    ids = torch.tensor(tokenizer.encode_prompt("ab") + tokenizer.encode("<think>ab</think>\\boxed{1}"))
    ends = torch.tensor([0, len(ids)], dtype=torch.int32)
    with torch.no_grad():
        assert float(token_logprobs(model, ids, ends).logprobs_T[5:].mean()) > -0.3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cold", "demonstrations.jsonl", "start"]


def test_run_sft_when_repeated_or_packed_otherwise_gives_the_same_weights(
    make_start: Start, tmp_path: Path
) -> None:
    for name, changes in (("a", {}), ("b", {}), ("c", {"pack_tokens": 30})):
        run_sft(make_start(steps=12, **changes), tmp_path / name)
    first, again, packed = (load_model(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert all(torch.allclose(packed[name], tensor, atol=2e-3) for name, tensor in first.items())


def test_run_sft_when_stopped_goes_on_where_it_was_bit_for_bit(make_start: Start, tmp_path: Path) -> None:
    holdout = write_lines(tmp_path / "holdout.jsonl", [{"prompt": "aa", "response": "y"}])
    start = make_start(steps=20, holdout=holdout, holdout_every_steps=6, checkpoint_every_steps=4)
    run_sft(start, tmp_path / "whole")
    stopped, rest = StopAfter(10), StopAfter()
    half = run_sft(start, tmp_path / "cut", stopped, stopped.options)
    assert (half.is_finished, half.step, half.num_steps) == (False, 10, 20)
    assert not (tmp_path / "cut").exists()
    assert [event.step for event in stopped.events if isinstance(event, StageSaved)] == [4, 8, 10]
    result = run_sft(start, tmp_path / "cut", rest, rest.options)
    assert rest.of(StageStart) == [StageStart(step=10, num_steps=20)]
    assert rest.steps == list(range(11, 21))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert not (tmp_path / "cut.partial").exists()
    again = StopAfter()
    found = run_sft(start, tmp_path / "cut", again, again.options)
    assert (found.step, found.loss, found.num_tokens) == (20, result.loss, result.num_tokens)
    assert again.events == [found]


def test_run_sft_when_a_checkpoint_is_torn_takes_the_one_before(make_start: Start, tmp_path: Path) -> None:
    start = make_start(steps=12, checkpoint_every_steps=3)
    run_sft(start, tmp_path / "whole")
    killed, rest = StopAfter(10, KeyboardInterrupt), StopAfter()
    with pytest.raises(KeyboardInterrupt):
        run_sft(start, tmp_path / "cut", killed, killed.options)
    checkpoints = tmp_path / "cut.partial" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000006", "step-00000009"]
    part = next((checkpoints / "step-00000009" / "state").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    run_sft(start, tmp_path / "cut", rest, rest.options)
    assert rest.steps == list(range(7, 13))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_run_sft_when_no_checkpoint_is_sound_says_so(make_start: Start, tmp_path: Path) -> None:
    start, stopped = make_start(steps=12), StopAfter(2)
    run_sft(start, tmp_path / "cut", stopped, stopped.options)
    (tmp_path / "cut.partial" / "checkpoints" / "step-00000002" / "stage.json").write_text("{}")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        run_sft(start, tmp_path / "cut", stopped, StopAfter().options)


def test_run_sft_when_something_was_left_wants_to_know(make_start: Start, tmp_path: Path) -> None:
    stopped = StopAfter(2)
    run_sft(make_start(steps=5), tmp_path / "cut", stopped, stopped.options)
    with pytest.raises(PreconditionError, match=r"a checkpoint of step 2\): go on with --resume"):
        run_sft(make_start(steps=5), tmp_path / "cut")
    with pytest.raises(ConfigError, match=r"sft.learning_rate was 0.005 and is 0.004. Put it back"):
        run_sft(make_start(steps=5, learning_rate=4e-3), tmp_path / "cut", options=StopAfter().options)
    write_lines(tmp_path / "demonstrations.jsonl", [{"prompt": "c", "response": "d"}])
    with pytest.raises(ConfigError, match="the demonstrations, the tokenizer or the chat template are not"):
        run_sft(make_start(steps=5), tmp_path / "cut", options=StopAfter().options)


def test_run_sft_when_a_file_changes_under_it_stops(make_start: Start, tmp_path: Path) -> None:
    start = make_start(steps=50)

    def overwrite(event: Event) -> None:
        if isinstance(event, StageStart):
            write_lines(tmp_path / "demonstrations.jsonl", [{"prompt": "b", "response": "a"}] * 2)

    with pytest.raises(DataLossError, match=r"demonstrations.jsonl:\d is not what it was"):
        run_sft(start, tmp_path / "cold", overwrite)


def test_holdout_when_asked_for_is_told_and_can_end_the_stage(make_start: Start, tmp_path: Path) -> None:
    holdout = write_lines(tmp_path / "holdout.jsonl", [{"prompt": "zz", "response": "~~~~~~"}])
    told = StopAfter()
    start = make_start(steps=40, holdout=holdout, holdout_every_steps=5, stop_after_rounds=2)
    result = run_sft(start, tmp_path / "cold", told)
    rounds = [event for event in told.events if isinstance(event, HoldoutRound)]
    assert result.is_finished and result.step < 40
    assert rounds[-1].step == result.step
    assert rounds[-1].step - rounds[-1].best_step == 10
    assert (
        min(event.loss for event in rounds)
        == rounds[-1].best_loss
        == pytest.approx(next(event.loss for event in rounds if event.step == rounds[-1].best_step))
    )
    assert result.holdout_loss == rounds[-1].loss > 3


def test_holdout_loss_is_that_of_its_own_counted_tokens(make_start: Start, tmp_path: Path) -> None:
    """Of the weights that the result has, over packs of any size."""
    found = []
    for name, pack_tokens in (("a", 24), ("b", 4096)):
        start = make_start(steps=3, holdout=str(tmp_path / "demonstrations.jsonl"), pack_tokens=pack_tokens)
        found.append(run_sft(start, tmp_path / name).holdout_loss)
    model, tokenizer = load_model(tmp_path / "b"), load_tokenizer(tmp_path / "b")
    logprobs: list[float] = []
    for line in LINES:
        prompt = tokenizer.encode_prompt(line["prompt"])
        ids = torch.tensor([*prompt, *tokenizer.encode(line["response"]), tokenizer.token_id("<eos>")])
        with torch.no_grad():
            stats = token_logprobs(model, ids, torch.tensor([0, len(ids)], dtype=torch.int32))
        logprobs += stats.logprobs_T[len(prompt) :].tolist()
    assert found[1] == pytest.approx(-sum(logprobs) / len(logprobs), rel=1e-5)
    assert found[0] == pytest.approx(found[1], rel=1e-2)


def test_check_sft_when_asked_tells_what_a_step_will_be_and_leaves_nothing(
    make_start: Start, tmp_path: Path
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    report = check_sft(make_start(epochs=3, batch_size=4, pack_tokens=24))
    assert (report.figures.num_examples, report.figures.longest, report.num_steps) == (2, 12, 2)
    assert (report.num_epochs, report.mean_examples, report.mean_packs) == (3, 3, 1.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_run_sft_when_the_run_computes_in_bfloat16_writes_what_rollout_would_compute_with(
    make_start: Start, tmp_path: Path
) -> None:
    start = make_start(steps=3)
    model = start.model.model_copy(update={"dtype": "bfloat16"})
    result = run_sft(start.model_copy(update={"model": model}), tmp_path / "cold")
    files = [load_file(path) for path in result.folder.glob("*.safetensors")]
    assert {tensor.dtype for tensors in files for tensor in tensors.values()} == {torch.bfloat16}
    assert load_model(result.folder).lm_head.weight.dtype == torch.float32


def test_run_sft_when_the_data_is_wrong_leaves_nothing(make_start: Start, tmp_path: Path) -> None:
    (tmp_path / "demonstrations.jsonl").write_text("{\n")
    with pytest.raises(ConfigError, match="demonstrations.jsonl:1 is not JSON"):
        run_sft(make_start(), tmp_path / "cold")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demonstrations.jsonl", "start"]


def test_learning_rate_at_when_over_warms_up_and_ends_at_a_share() -> None:
    sft = RunFile.model_validate({"sft": {"learning_rate": 0.5}}).sft
    shares = [learning_rate_at(step, 100, sft) / 0.5 for step in range(1, 101)]
    assert shares[0] == pytest.approx(0.1, rel=1e-2)
    assert max(shares) == shares[9]
    assert shares[-1] == pytest.approx(0.1)
    flat = sft.model_copy(update={"warmup_share": 0.0, "final_share": 1.0})
    assert {learning_rate_at(step, 100, flat) for step in range(1, 101)} == {0.5}


def test_initial_model_when_fresh_depends_on_the_seed_alone() -> None:
    seeds = [RunFile.model_validate({"run": {"seed": seed}}) for seed in (1, 1, 2)]
    first, same, other = (initial_model(run_file).lm_head.weight for run_file in seeds)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_result_when_written_says_what_it_came_from(make_start: Start, tmp_path: Path) -> None:
    result = run_sft(make_start(steps=2), tmp_path / "cold")
    assert isinstance(result, SftResult)
    content = json.loads((tmp_path / "cold" / "sft.json").read_text())
    assert content["state"]["step"] == content["num_steps"] == 2
    assert content["identity"]["sft.learning_rate"] == 5e-3
    assert "sft.demonstrations" not in content["identity"]
