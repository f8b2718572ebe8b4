"""Cold start: supervised training on worked examples, so that reinforcement starts from a policy that is
sometimes right.

Only response tokens count. The result is a model folder in the published layout with its tokenizer; it
appears whole.
Legend: T packed tokens.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from forklight_core.errors import ConfigError
from forklight_core.runfile.schema import RunFile
from forklight_model.checkpoint import save_model
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import Tokenizer
from forklight_trainer.initial import initial_model, initial_tokenizer

BETAS = (0.9, 0.95)
ADAM_EPS = 1e-15
GRAD_CLIP = 1.0
WARMUP_SHARE = 0.1
FINAL_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SftProgress:
    """One finished step."""

    step: int
    num_steps: int
    loss: float
    num_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SftResult:
    """A finished cold start."""

    folder: Path
    num_steps: int
    loss: float
    num_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A worked example as token ids."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


def run_sft(
    run_file: RunFile, out_dir: Path | str, progress: Callable[[SftProgress], None] | None = None
) -> SftResult:
    """Train on `sft.demonstrations` and write a model folder."""
    start_s = time.monotonic()
    if run_file.trainer.threads:
        torch.set_num_threads(run_file.trainer.threads)
    tokenizer = initial_tokenizer(run_file)
    demonstrations = load_demonstrations(Path(run_file.sft.demonstrations), tokenizer)
    model = initial_model(run_file)
    optimizer = torch.optim.AdamW(model.parameters(), betas=BETAS, eps=ADAM_EPS, weight_decay=0.0, fused=True)
    chance = random.Random(run_file.run.seed)
    loss, num_tokens = math.nan, 0
    for step in range(1, run_file.sft.steps + 1):
        chosen = [chance.choice(demonstrations) for _ in range(run_file.sft.batch_size)]
        rate = run_file.sft.learning_rate * learning_rate_share(step, run_file.sft.steps)
        loss = _train_step(model, optimizer, chosen, rate)
        num_tokens += sum(len(d.prompt_ids) + len(d.response_ids) for d in chosen)
        if progress is not None:
            seconds = time.monotonic() - start_s
            progress(
                SftProgress(
                    step=step, num_steps=run_file.sft.steps, loss=loss, num_tokens=num_tokens, seconds=seconds
                )
            )
    folder = Path(out_dir)
    write_model_folder(model, tokenizer, folder)
    seconds = time.monotonic() - start_s
    return SftResult(
        folder=folder, num_steps=run_file.sft.steps, loss=loss, num_tokens=num_tokens, seconds=seconds
    )


def load_demonstrations(path: Path, tokenizer: Tokenizer) -> list[Demonstration]:
    """Read JSON lines of {prompt, response}; the response ends with the stop token."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"sft.demonstrations = {path}: {error}; give a file of JSON lines {{prompt, response}}"
        ) from error
    demonstrations = [
        _parse_line(line, f"{path}:{i}", tokenizer) for i, line in enumerate(lines, 1) if line.strip()
    ]
    if not demonstrations:
        raise ConfigError(
            f"sft.demonstrations = {path} is empty: give at least one line {{prompt, response}}"
        )
    return demonstrations


def learning_rate_share(step: int, num_steps: int) -> float:
    """Linear warm-up over the first tenth, then cosine down to a tenth."""
    warmup = max(1, round(num_steps * WARMUP_SHARE))
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return min(1.0, step / warmup) * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)


def write_model_folder(model: HybridModel, tokenizer: Tokenizer, folder: Path) -> None:
    """The tokenizer first: the model's writer keeps it and swaps the whole folder in at once."""
    tokenizer.save(folder)
    save_model(model, folder)


def _parse_line(line: str, where: str, tokenizer: Tokenizer) -> Demonstration:
    try:
        entry = json.loads(line)
        prompt, response = str(entry["prompt"]), str(entry["response"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where} is not a JSON object with prompt and response: {error!r}") from error
    return Demonstration(
        prompt_ids=tuple(tokenizer.encode_prompt(prompt)),
        response_ids=(*tokenizer.encode(response), *sorted(tokenizer.stop_ids)[:1]),
    )


def _train_step(
    model: HybridModel, optimizer: torch.optim.Optimizer, chosen: Sequence[Demonstration], rate: float
) -> float:
    input_ids_T, cu_seqlens, is_response_T = _pack(chosen)
    logprobs_T = token_logprobs(model, input_ids_T, cu_seqlens).logprobs_T
    loss = -logprobs_T[is_response_T].mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(loss.detach())


def _pack(chosen: Sequence[Demonstration]) -> tuple[Tensor, Tensor, Tensor]:
    ids: list[int] = []
    is_response: list[bool] = []
    ends = [0]
    for demonstration in chosen:
        ids += [*demonstration.prompt_ids, *demonstration.response_ids]
        is_response += [False] * len(demonstration.prompt_ids) + [True] * len(demonstration.response_ids)
        ends.append(len(ids))
    return torch.tensor(ids), torch.tensor(ends, dtype=torch.int32), torch.tensor(is_response)
