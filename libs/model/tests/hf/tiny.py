"""Random transformers models of a few thousand parameters, and a tokenizer of bytes with a chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from forklight_model.hf.loading import fresh_hf_policy
from forklight_model.hf.policy import HfPolicy

MARKUP = ("<|begin|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHARED: Mapping[str, object] = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.35,
    "rms_norm_eps": 1e-6,
}
LLAMA: Mapping[str, object] = {
    **SHARED,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
"""Grouped queries, and a head that is the embedding."""
QWEN_MOE: Mapping[str, object] = {
    **SHARED,
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "tie_word_embeddings": False,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "router_aux_loss_coef": 0.01,
}
"""Biases, experts that lie on disk one by one, and one that all share."""
MISTRAL: Mapping[str, object] = {
    **SHARED,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "sliding_window": 11,
}
"""A window that slides, shorter than the sequences of the tests."""
KINDS: Mapping[str, Mapping[str, object]] = {"llama": LLAMA, "qwen_moe": QWEN_MOE, "mistral": MISTRAL}


def tiny_policy(kind: str = "llama", seed: int = 0) -> HfPolicy:
    """Random weights, biases and norms too."""
    policy = fresh_hf_policy(KINDS[kind], seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return policy


def build_tokenizer() -> Tokenizer:
    """Bytes, four pieces of markup, and a token in front of every text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in MARKUP])
    fast.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", fast.token_to_id("<|begin|>"))]
    )
    return fast


def write_tokenizer(folder: Path, *, template: str | None = TEMPLATE) -> Tokenizer:
    """As transformers lays one out; generation ends with two ids."""
    folder.mkdir(parents=True, exist_ok=True)
    fast = build_tokenizer()
    fast.save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    stops = [fast.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops, "temperature": 0.6}))
    return fast


def write_folder(
    folder: Path, kind: str = "llama", seed: int = 0, *, template: str | None = TEMPLATE
) -> HfPolicy:
    """A model folder as transformers writes it; the policy that is in it."""
    policy = tiny_policy(kind, seed)
    write_tokenizer(folder, template=template)
    policy.native.save_pretrained(folder)
    return policy


def edit_json(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


__all__ = ["KINDS", "edit_json", "tiny_policy", "write_folder", "write_tokenizer"]
