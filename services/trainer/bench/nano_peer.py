"""The other side of `nano_loop.py`, in a process of its own: TRL's GRPOTrainer over transformers' MiniMax.

    python services/trainer/bench/nano_peer.py FOLDER STEPS CORES

What a user would set: CISPO with our ceiling, betas, epsilon, clip and rates, fp32, one batch a step, no
checkpointing of activations, no router loss (we add none). Everything else is the library's choice. The
second step runs with a thread a core, the third with one, all others with the faster: threads wait for each
other, and beside other work two can take several times as long as one. Prints a JSON line a step; at the end
it writes the weights in our layout. Needs trl, transformers and datasets.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nano_processes  # noqa: F401
import torch
from nano_task import (
    BETAS,
    CEILING,
    EPS,
    GRAD_CLIP,
    GROUP_SIZE,
    LEARNING_RATE,
    SAMPLES_A_STEP,
    WARMUP_STEPS,
    WINDOW,
    Mark,
    Task,
    copy_tokenizer,
    is_right,
    read_lines,
)
from torch import Tensor

from forklight_model.checkpoint import load_published_tensors, save_model
from forklight_model.config import ModelConfig, load_config
from forklight_model.model import HybridModel

SAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "num_key_value_heads", "num_local_experts", "num_experts_per_tok", "rms_norm_eps", "initializer_range",
    "max_position_embeddings",
)  # fmt: skip
OWN_BUFFERS = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
ALL_CORES_STEP, ONE_THREAD_STEP = 2, 3


def write_peer_folder(task: Task) -> Path:
    """The model to start from with a config.json that transformers reads; the weights are the same files."""
    from transformers import MiniMaxConfig

    ours, folder = load_config(task.start), task.folder / "peer_start"
    kinds = ("linear_attention", "full_attention")
    copy_tokenizer(task.start, folder)
    for path in (*task.start.glob("*.safetensors"), task.start / "model.safetensors.index.json"):
        target = folder / path.name
        target.unlink(missing_ok=True)
        target.symlink_to(path.resolve())
    MiniMaxConfig(
        **{name: getattr(ours, name) for name in SAME},
        architectures=["MiniMaxForCausalLM"],
        layer_types=[kinds[kind] for kind in ours.attn_type_list],
        full_attn_alpha_factor=ours.layernorm_full_attention_alpha,
        linear_attn_alpha_factor=ours.layernorm_linear_attention_alpha,
        mlp_alpha_factor=ours.layernorm_mlp_alpha,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    ).save_pretrained(folder)
    return folder


def in_our_layout(model: torch.nn.Module, config: ModelConfig) -> dict[str, Tensor]:
    """transformers stacks the experts and calls the block `mlp`; the published names are ours."""
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        name = name.replace(".mlp.", ".block_sparse_moe.")
        head, _, last = name.rpartition(".")
        if last in OWN_BUFFERS:
            continue
        if last not in ("gate_up_proj", "down_proj"):
            found[name] = tensor
            continue
        for expert, matrix in enumerate(tensor):
            if last == "down_proj":
                found[f"{head}.{expert}.w2.weight"] = matrix
            else:
                found[f"{head}.{expert}.w1.weight"] = matrix[: config.intermediate_size]
                found[f"{head}.{expert}.w3.weight"] = matrix[config.intermediate_size :]
    return found


def reward(completions: list[Any], gold: list[str], **_: object) -> list[float]:
    return [float(is_right(each, said[0]["content"])) for each, said in zip(gold, completions, strict=True)]


def write_prompts(task: Task) -> Path:
    path = task.folder / "peer_prompts.jsonl"
    rows = [
        {"prompt": [{"role": "user", "content": line["prompt"]}], "gold": line["gold"]}
        for line in read_lines(task.data / "prompts.jsonl")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def open_trainer(task: Task, steps: int, cores: int) -> Any:  # noqa: ANN401
    from datasets import Dataset
    from transformers import AutoTokenizer, MiniMaxForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    folder = write_peer_folder(task)
    config = GRPOConfig(
        output_dir=str(task.folder / "peer_output"),
        loss_type="cispo",
        epsilon_high=CEILING,
        beta=0.0,
        num_generations=GROUP_SIZE,
        per_device_train_batch_size=SAMPLES_A_STEP,
        max_completion_length=WINDOW,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
        lr_scheduler_type="constant_with_warmup",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPS,
        max_grad_norm=GRAD_CLIP,
        router_aux_loss_coef=0.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        report_to=[],
        seed=0,
    )
    return GRPOTrainer(
        model=MiniMaxForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_json(str(write_prompts(task)), cache_dir=str(task.folder / "peer_cache")),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[_step_teller(cores)],
    )


def _step_teller(cores: int) -> Any:  # noqa: ANN401
    from transformers import TrainerCallback

    class StepTeller(TrainerCallback):
        """A line a step, and the choice of threads."""

        def __init__(self) -> None:
            self.began, self.seconds = 0.0, dict[int, float]()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            self.seconds[state.global_step] = time.perf_counter() - self.began
            if state.global_step == ALL_CORES_STEP:
                torch.set_num_threads(1)
            if state.global_step == ONE_THREAD_STEP:
                is_one_faster = self.seconds[ONE_THREAD_STEP] < self.seconds[ALL_CORES_STEP]
                torch.set_num_threads(1 if is_one_faster else cores)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ANN401
            if logs and "reward" in logs:
                mark = Mark(
                    step=state.global_step,
                    time=time.time(),
                    cpu_s=time.process_time(),
                    num_samples=SAMPLES_A_STEP,
                    reward=float(logs["reward"]),
                    length=float(logs["completions/mean_length"]),
                )
                threads, loss = torch.get_num_threads(), float(logs["loss"])
                say(mark=asdict(mark), threads=threads, loss=loss, grad_norm=float(logs["grad_norm"]))

    return StepTeller()


def say(**content: object) -> None:
    print(json.dumps(content), flush=True)


def main() -> int:
    task, steps, cores = Task(folder=Path(sys.argv[1]).resolve()), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(cores)
    trainer = open_trainer(task, steps, cores)
    try:
        trainer.train()
    except RuntimeError as error:  # such as probabilities that are not numbers
        say(error=f"{type(error).__name__}: {error}")
    wrong = [name for name, each in trainer.model.named_parameters() if not bool(torch.isfinite(each).all())]
    say(num_parameters=sum(each.numel() for each in trainer.model.parameters()), not_finite=wrong[:4])
    if not wrong:
        config = load_config(task.start)
        model = HybridModel(config, is_initialized=False)
        load_published_tensors(model, in_our_layout(trainer.model, config))
        save_model(model, task.folder / "peer_final")
        copy_tokenizer(task.start, task.folder / "peer_final")
    return 0


if __name__ == "__main__":
    sys.exit(main())
