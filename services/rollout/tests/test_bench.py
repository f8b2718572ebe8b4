"""The benchmarks of a GPU, at a tiny extent on a CPU: that measures nothing, but shows that they work."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
ROWS = {
    "decode": ("ours, 4 x 64", "ours, 4 x 300"),
    "overhead": ("step, 8 x 40: wall",),
    "filters": ("no filter, 4 x 64", "top_p 0.95 / no filter", "all three / no filter"),
    "swap": ("longest time between two steps' tokens", "answers equal to those of an engine made"),
    "parity": ("among 4: tokens and log-probs as alone", "the trainer's pass: log-probs as decoded"),
    "growth": ("time a token at 600 / at 64", "4 sequences, 24 steps in one go: all"),
    "long": ("prompt of 700: first token", "prompt of 700: decoded after it"),
    "tail": ("all", "GPU busy until 5% of 8 samples remain", "preempted"),
}
"""By part; the table may have more."""
NOT_THERE = ("redis", "pydantic", "grpc", "opentelemetry", "obstore", "tokenizers", "fastapi", "transformers")
IMPORT = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not there")

sys.meta_path.insert(0, Wall())
sys.path.insert(0, {bench!r})
import engine_gpu
"""
Main = Callable[[Sequence[str]], int]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Main:
    monkeypatch.syspath_prepend(str(BENCH))
    found: Main = importlib.import_module("engine_gpu").main
    return found


def test_every_part_is_run_here(main: Main) -> None:
    assert importlib.import_module("engine_gpu").PARTS.keys() == ROWS.keys()


def test_engine_is_imported_where_the_services_packages_are_not() -> None:
    program = IMPORT.format(blocked=NOT_THERE, bench=str(BENCH))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("part", ROWS)
def test_part_gives_its_rows_on_a_cpu(
    part: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    failed = main([part, "--size", "nano", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert failed == 0, shown
    table = json.loads((tmp_path / f"bench_{part}.json").read_text())
    names = [row["what"] for row in table["rows"]]
    missing = [name for name in ROWS[part] if not any(each.startswith(name) for each in names)]
    assert not missing, f"{missing} not among {names}"
    assert all(row["what"] in shown for row in table["rows"])


def test_a_part_that_fails_is_counted_and_costs_no_other(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    beyond = str(10**6)  # more positions than the model has
    failed = main(["decode", "long", "--contexts", beyond, "--size", "nano", "--device", "cpu"])
    shown = capsys.readouterr()
    assert failed == 1
    assert "!! decode: ConfigError" in shown.out
    assert "prompt of 700: first token" in shown.out


def test_prompts_of_tail_have_the_wanted_lengths(main: Main) -> None:
    lengths = sorted(importlib.import_module("case_tail").draw_lengths(10_000, 1.0))
    assert lengths[5_000] == pytest.approx(4096, rel=0.05)
    assert lengths[9_900] == pytest.approx(65_536, rel=0.1)
    assert lengths[-1] == 81_920


def test_step_bytes_are_the_model_and_its_caches(main: Main) -> None:
    stage, floor = importlib.import_module("stage"), importlib.import_module("floor")
    options = importlib.import_module("options").parse_options(
        ("decode",), ["decode", "--size", "nano", "--device", "cpu"], ""
    )
    model = stage.make_model(options)
    engine, _ = stage.make_engine(model, options, stage.Extent(batch=4, prompt_tokens=300, new_tokens=600))
    generator = stage.Generator(engine)
    stage.fill(generator, 4, 300, 600)
    owners = [engine._pool._owners[page] for row in engine._rows.running for page in row.pages]
    assert set(owners) == {1}, "sequences share pages"
    found = floor.count_step_bytes(engine)
    config = model.config
    # Keys and values of 4 x 300 tokens and what was drawn, fp32, one softmax layer in eight.
    per_token = config.num_hidden_layers // 8 * 2 * config.num_key_value_heads * config.head_dim * 4
    assert found.keys == per_token * sum(row.length for row in engine._rows.running)
    whole = sum(weight.nbytes for weight in model.parameters())
    assert whole / 2 < found.weights < whole
