"""What both sides of `nano_loop.py` are given: sums, first weights, the rule of the reward, a last exam.

The architecture is `nano` with rotary positions on every dim of a head: transformers' MiniMax knows no
others. With that it reads our published layout as it is, and gives our log-probs.
"""

# ruff: noqa: INP001
from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import nano_processes
import torch

from forklight_model.checkpoint import load_model, save_model
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_model.tokenizer import Tokenizer, build_character_tokenizer, load_tokenizer

WINDOW = 32
GROUP_SIZE = 8
SAMPLES_A_STEP = 256
LEARNING_RATE, WARMUP_STEPS = 5e-4, 5
CEILING, BETAS, EPS, GRAD_CLIP = 5.0, (0.9, 0.95), 1e-15, 1.0
SETTLING_STEPS = 4
"""Not counted for the rate: on our side queues fill, on the other side memory is first touched."""
COLD_START_STEPS = 450
EXAM_SAMPLES = 2
"""Of each of the 256 held-out sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where one side stood when an optimizer step was done."""

    step: int
    time: float
    cpu_s: float
    """Of all its processes since they began."""
    num_samples: int
    """Learned from in this step."""
    reward: float
    """Mean over the samples of this step."""
    length: float
    """Mean tokens of a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Files of one comparison."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def start(self) -> Path:
        """Model folder that both sides start from."""
        return self.folder / "start"


def prepare(folder: Path) -> Task:
    """Prompts, and a model that a cold start has taught the sloppy student's answers. What is there stays."""
    from forklight_cli.arithmetic import write_arithmetic

    task = Task(folder=folder)
    files = write_arithmetic(task.data)
    if not task.start.exists():
        write_fresh_model(folder / "fresh")
        run_file = folder / "cold_start.toml"
        run_file.write_text(
            f'[model]\npath = "{folder / "fresh"}"\n[sft]\ndemonstrations = "{files.demonstrations}"\n'
            f"steps = {COLD_START_STEPS}\nbatch_size = 16\nlearning_rate = 5e-3\n",
            encoding="utf-8",
        )
        nano_processes.run_forklight(
            folder / "cold_start.log", "sft", str(run_file), "--out", str(task.start)
        )
    return task


def write_fresh_model(folder: Path) -> None:
    config = replace(SIZES["nano"], rotary_dim=SIZES["nano"].head_dim)
    model = HybridModel(config, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(0))
    save_model(model, folder)
    build_character_tokenizer().save(folder)


def is_right(gold: str, response: str) -> bool:
    """The rule of our verifier without what needs symbolic mathematics: sums do not."""
    from forklight_reward.verifier.verify import MathVerdict, decide_quickly

    verdict = decide_quickly(gold, response, extracted=False)
    return isinstance(verdict, MathVerdict) and verdict.correct


def examine(task: Task, folder: Path) -> float:
    """Share of right answers to the held-out sums at temperature 1, with the same seeds for every model."""
    from forklight_rollout.adapters.native import NativeEngine, NativeOptions
    from forklight_rollout.adapters.native.factory import plan_engine
    from forklight_rollout.generation.generator import Generator
    from forklight_rollout.memory_plan import MemoryWish

    torch.set_num_threads(2)
    wish = MemoryWish(max_batch=256, max_prompt_tokens=16, max_new_tokens=WINDOW, budget_bytes=0)
    manner = NativeOptions(dtype="float32", device="cpu")
    model, tokenizer = load_model(folder).requires_grad_(False), load_tokenizer(folder)
    generator = Generator(NativeEngine(model, plan_engine(wish, manner, model, "cpu"), manner, version=0))
    golds = _add_exam(generator, task, tokenizer)
    num_right = 0
    while not generator.is_idle:
        for sample in generator.step():
            response = tokenizer.decode(list(sample.response.ids))
            num_right += is_right(golds[sample.group_id], response)
    return num_right / (EXAM_SAMPLES * len(golds))


def _add_exam(generator: object, task: Task, tokenizer: Tokenizer) -> dict[str, str]:
    """Hand every held-out sum in; their answers by group."""
    from forklight_rollout.generation.generator import Generator
    from forklight_rollout.generation.groups import GroupWork, SampleStart
    from forklight_rollout.ports import DrawRules, EndRules

    assert isinstance(generator, Generator)
    golds: dict[str, str] = {}
    end = EndRules(max_new_tokens=WINDOW, stop_ids=tokenizer.stop_ids)
    for place, line in enumerate(read_lines(task.data / "holdout.jsonl")):
        group_id = f"exam/g{place:08d}"
        golds[group_id] = str(line["gold"])
        samples = tuple(
            SampleStart(sample_id=f"{group_id}/s{number:03d}", seed=EXAM_SAMPLES * place + number)
            for number in range(EXAM_SAMPLES)
        )
        prompt_ids = tuple(tokenizer.encode_prompt(str(line["prompt"])))
        draw = DrawRules(temperature=1.0)
        generator.add(
            GroupWork(group_id=group_id, prompt_ids=prompt_ids, draw=draw, end=end, samples=samples)
        )
    return golds


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def copy_tokenizer(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, target / name)
