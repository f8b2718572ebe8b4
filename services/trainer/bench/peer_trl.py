"""The peer of a training step: transformers' MiniMax under TRL's GRPOTrainer with loss_type="cispo".

TRL's own loss, its own fused head, gradient checkpointing, torch's fused AdamW over bf16 weights (half of our
bytes: TRL keeps no fp32 copy of a bf16 model), one unpadded sample a micro-batch.
"""

# ruff: noqa: INP001
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import paths  # noqa: F401
import torch
from report import Report
from work import PROMPT_TOKENS, draw_batch


def peer_step_seconds(report: Report, size: str, lengths: tuple[int, ...]) -> float:
    """Median seconds of a step over these samples."""
    from step_gpu import seconds_a_call

    trainer = _open_trainer(size)
    model, optimizer = trainer.model, torch.optim.AdamW(trainer.model.parameters(), lr=1e-6, fused=True)
    samples = [_inputs(sample, lengths) for sample in draw_batch(lengths, model.config.vocab_size).samples]

    def step(_: int) -> None:
        for inputs in samples:
            trainer._compute_loss(model, inputs).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    torch.cuda.reset_peak_memory_stats()
    seconds = seconds_a_call(step, warmup=1, repeats=3)
    peak = torch.cuda.max_memory_allocated() / 2**30
    notes = f"{sum(lengths) / seconds:,.0f} tokens/s, {peak:.1f} GiB"
    report.add("packed 32 Ki, transformers and TRL", seconds * 1e3, "ms", notes=notes)
    return seconds


def _open_trainer(size: str) -> Any:  # noqa: ANN401
    from datasets import IterableDataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        loss_type="cispo",
        beta=0.0,
        epsilon_high=5.0,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=True,
        per_device_train_batch_size=2,
        num_generations=2,
        max_steps=1,
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=_peer_model(size),
        reward_funcs=lambda **_: [0.0],
        args=config,
        train_dataset=IterableDataset.from_generator(_one_prompt),
        processing_class=_tokenizer(),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _one_prompt() -> Iterator[dict[str, str]]:
    """The trainer wants a dataset; nothing is drawn from it here."""
    yield {"prompt": "1"}


def _peer_model(size: str) -> Any:  # noqa: ANN401
    from bench_gpu import peer_model

    return peer_model(size)


def _tokenizer() -> Any:  # noqa: ANN401
    from transformers import PreTrainedTokenizerFast

    from forklight_model.tokenizer import build_character_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        build_character_tokenizer().save(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder)


def _inputs(sample: Any, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:  # noqa: ANN401
    prompt, response = (
        torch.from_numpy(ids).long()[None].cuda() for ids in (sample.prompt_ids, sample.response_ids)
    )
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": response,
        "completion_mask": torch.ones_like(response),
        "advantages": torch.tensor([1.0 if sample.reward else -1.0], device="cuda"),
        "old_per_token_logps": torch.from_numpy(sample.behaviour_logprobs)[None].cuda(),
        "num_items_in_batch": torch.tensor(float(sum(lengths) - PROMPT_TOKENS * len(lengths)), device="cuda"),
    }
