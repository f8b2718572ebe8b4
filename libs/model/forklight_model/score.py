"""Scoring a file of token ids: what the model thought of every next token.

Legend: B sequences, T tokens a sequence, V vocabulary.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.logprobs import token_logprobs
from forklight_model.policies import load_policy, load_policy_config
from forklight_model.policy import Policy

INPUT_KEY = "input_ids"
OUTPUT_KEY = "next_token_logprobs"


def score_file(model_dir: str | Path, tokens_file: str | Path, out_file: str | Path) -> None:
    """Read `input_ids` [B, T], check them before any work, write fp32 `next_token_logprobs` [B, T-1]."""
    input_ids_BT = _read_input_ids(Path(tokens_file), load_policy_config(model_dir).vocab_size)
    logprobs_BT = score_tokens(load_policy(model_dir), input_ids_BT)
    save_file({OUTPUT_KEY: logprobs_BT.contiguous()}, out_file)


@torch.inference_mode()
def score_tokens(policy: Policy, input_ids_BT: Tensor) -> Tensor:
    """fp32 log p(token t+1 | tokens up to t) for t = 0 .. T-2, [B, T-1]; one sequence at a time."""
    length = input_ids_BT.shape[1]
    cu_seqlens = torch.tensor([0, length], dtype=torch.int32)
    return torch.stack([token_logprobs(policy, row_T, cu_seqlens).logprobs_T[1:] for row_T in input_ids_BT])


def _read_input_ids(path: Path, vocab_size: int) -> Tensor:
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(f"{path} is not a readable safetensors file: {error}") from error
    if INPUT_KEY not in tensors:
        raise InvalidInputError(f"{path} holds {sorted(tensors)}, not the tensor {INPUT_KEY!r}")
    input_ids = tensors[INPUT_KEY]
    if input_ids.dim() != 2 or 0 in input_ids.shape or input_ids.shape[1] < 2:
        raise InvalidInputError(f"{path}: {INPUT_KEY} is {tuple(input_ids.shape)}; expected [B >= 1, T >= 2]")
    if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise InvalidInputError(f"{path}: {INPUT_KEY} is {input_ids.dtype}; expected integers")
    input_ids_BT = input_ids.to(torch.int64)
    lowest, highest = int(input_ids_BT.min()), int(input_ids_BT.max())
    if lowest < 0 or highest >= vocab_size:
        raise InvalidInputError(
            f"{path}: {INPUT_KEY} runs from {lowest} to {highest}, the vocabulary from 0 to {vocab_size - 1}"
        )
    return input_ids_BT
