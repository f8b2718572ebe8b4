"""Whether this GPU, compiler and torch keep the numeric contract: rollout's bits are the trainer's.

Owns the check made at start (a small model) and the counting that longer checks share.
Legend: B sequences, T tokens, N prompt tokens, R sampled tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from forklight_kernels import Backend, SamplingRequest, backend_on, sampler
from forklight_kernels.contract import contract_hash
from forklight_model.cache import HybridCache
from forklight_model.config import ModelConfig
from forklight_model.decode_graph import DecodeGraph
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import PromptPieces, advance, prefill
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel

SELF_TEST = ModelConfig(
    vocab_size=600,
    hidden_size=256,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=128,
    rotary_dim=64,
    num_local_experts=8,
    num_experts_per_tok=2,
    attn_type_list=(0, 1),
    max_position_embeddings=1024,
    initializer_range=0.06,
)
"""One layer of each kind, of the published head size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericMode:
    """Whether equal bits can be demanded here, and what was asked."""

    is_parity: bool
    reason: str
    contract: str
    device: str
    torch: str
    triton: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledSequence:
    """A prompt and what was sampled after it."""

    ids_T: Tensor
    """Prompt and sampled tokens."""
    logprobs_R: Tensor
    """fp32, as the sampler gave them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How sequences are sampled for a comparison."""

    num_tokens: int
    """Sampled after each prompt."""
    piece: int
    """Prompts are prefilled in pieces of so many tokens."""
    temperature: float = 1.0
    uses_graph: bool = False
    num_idle: int = 0
    """Rows of every decode step that belong to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Log-probs of the sampled tokens, rollout's against the trainer's."""

    num_tokens: int
    num_unequal: int
    max_difference: float


@cache
def check_numeric_mode(device: str, dtype: torch.dtype) -> NumericMode:
    """Sample with a small model and score what it sampled; parity mode is for where every bit is equal."""
    is_parity, reason = _self_test(torch.device(device), dtype)
    return NumericMode(
        is_parity=is_parity,
        reason=reason,
        contract=contract_hash(),
        device=device_name(torch.device(device)),
        torch=torch.__version__,
        triton=triton_version(),
    )


@torch.inference_mode()
def sample_sequences(
    model: HybridModel, prompts: Sequence[Tensor], plan: SamplingPlan
) -> list[SampledSequence]:
    """Sample after every prompt, all of them together, as a rollout pod would."""
    device = model.lm_head.weight.device
    num_rows, longest = len(prompts) + plan.num_idle, max(len(prompt) for prompt in prompts)
    memory = HybridCache(
        model.config, num_rows, longest + plan.num_tokens, model.lm_head.weight.dtype, device
    )
    feed = _decoder(model, memory, len(prompts), plan)
    seeds_B = torch.arange(1, len(prompts) + 1, device=device)
    logits_BV = _prefill_in_pieces(model, memory, prompts, plan.piece)
    positions_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids, logprobs = [], []
    for step in range(plan.num_tokens):
        request = SamplingRequest(
            temperatures_B=torch.full((len(prompts),), plan.temperature, device=device),
            top_ps_B=torch.ones(len(prompts), device=device),
            seeds_B=seeds_B,
            positions_B=positions_B + step,
            is_filtered=False,
        )
        sampled = sampler(logits_BV, request)
        ids.append(sampled.ids_B)
        logprobs.append(sampled.logprobs_B)
        if step < plan.num_tokens - 1:
            logits_BV = feed(sampled.ids_B)
    ids_BR, logprobs_BR = torch.stack(ids, dim=1), torch.stack(logprobs, dim=1)
    return [
        SampledSequence(ids_T=torch.cat([prompt, ids_R]), logprobs_R=logprobs_R)
        for prompt, ids_R, logprobs_R in zip(prompts, ids_BR, logprobs_BR, strict=True)
    ]


@torch.no_grad()
def count_unequal(
    model: HybridModel, sequences: Sequence[SampledSequence], temperature: float = 1.0
) -> Agreement:
    """Score all sequences in one pack, as the trainer would, and compare bit by bit."""
    ids_T = torch.cat([sequence.ids_T for sequence in sequences])
    lengths = torch.tensor([0, *(len(sequence.ids_T) for sequence in sequences)])
    cu_seqlens = lengths.cumsum(0).to(device=ids_T.device, dtype=torch.int32)
    logprobs_T = token_logprobs(model, ids_T, cu_seqlens, temperature).logprobs_T
    parts = logprobs_T.split_with_sizes([len(sequence.ids_T) for sequence in sequences])
    ours_R = torch.cat(
        [part[-len(sequence.logprobs_R) :] for part, sequence in zip(parts, sequences, strict=True)]
    )
    theirs_R = torch.cat([sequence.logprobs_R for sequence in sequences])
    return Agreement(
        num_tokens=len(ours_R),
        num_unequal=int((ours_R != theirs_R).sum()),
        max_difference=float((ours_R - theirs_R).abs().max()),
    )


def _decoder(
    model: HybridModel, memory: HybridCache, num_live: int, plan: SamplingPlan
) -> Callable[[Tensor], Tensor]:
    """The decode step of the first rows, with the plan's idle ones behind them."""
    ids_B = torch.zeros(memory.num_slots, dtype=torch.int64, device=memory.device)
    is_live_B = (torch.arange(memory.num_slots, device=memory.device) < num_live).to(torch.int64)
    graph = None
    if plan.uses_graph:
        graph = DecodeGraph(model, memory, memory.num_slots)
        graph.set_live(is_live_B)

    def feed(new_ids_B: Tensor) -> Tensor:
        ids_B[:num_live] = new_ids_B
        if graph is not None:
            return graph(ids_B)[:num_live]
        step = DecodePass.over(memory, memory.num_slots, is_live_B if plan.num_idle else None)
        return advance(model, step, ids_B)[:num_live]

    return feed


def _prefill_in_pieces(
    model: HybridModel, memory: HybridCache, prompts: Sequence[Tensor], piece: int
) -> Tensor:
    """Logits after each prompt; in a round, every prompt that has tokens left gets its next piece."""
    last: list[Tensor | None] = [None] * len(prompts)
    for start in range(0, max(len(prompt) for prompt in prompts), piece):
        members = [number for number, prompt in enumerate(prompts) if len(prompt) > start]
        pieces = [prompts[number][start : start + piece] for number in members]
        lengths = [len(each) for each in pieces]
        cut = PromptPieces(slots=members, lengths=lengths, seen=[start] * len(members))
        logits_BV = prefill(model, memory, cut, torch.cat(pieces))
        for number, logits_V in zip(members, logits_BV, strict=True):
            last[number] = logits_V
    return torch.stack([logits_V for logits_V in last if logits_V is not None])


def _self_test(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    if backend_on(device, dtype) is not Backend.TRITON:
        return False, f"{dtype} on {device.type} runs on torch, whose bits change with the batch"
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HybridModel(SELF_TEST).to(device=device, dtype=dtype)
    prompts = [
        torch.randint(SELF_TEST.vocab_size, (length,), generator=generator).to(device)
        for length in (150, 1, 64)
    ]
    # As an engine decodes: on a GPU from a graph, with a row that is nobody's.
    plan = SamplingPlan(num_tokens=70, piece=61, uses_graph=device.type == "cuda", num_idle=1)
    sequences = sample_sequences(model, prompts, plan)
    agreement = count_unequal(model, sequences)
    if agreement.num_unequal:
        return False, (
            f"{agreement.num_unequal} of {agreement.num_tokens} log-probs of a small model differ between "
            f"rollout and trainer (by {agreement.max_difference:.1e} at most) on this GPU with this Triton"
        )
    return True, f"all {agreement.num_tokens} log-probs of a small model are equal in bits"


def device_name(device: torch.device) -> str:
    """Of the GPU; `cpu` for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def triton_version() -> str:
    """`none` where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return "none"
