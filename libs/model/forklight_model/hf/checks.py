"""Whether a policy says what transformers says: held against its own forward pass when weights are loaded.

An architecture that does something between hidden states and logits that is not known here, or that looks
ahead, is refused by what it does and not by a list of names.
Legend: L tokens of the test, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from forklight_core.errors import ConfigError

if TYPE_CHECKING:
    from forklight_model.hf.policy import HfPolicy

NUM_TOKENS = 8
SCALE_NAMES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""What configs call a factor of all logits; some multiply by it and some divide."""
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
LOOSE = 3e-2
"""Relative, for types whose products transformers rounds."""


@torch.no_grad()
def check_policy(policy: HfPolicy) -> None:
    """Find the factor of its logits; ConfigError where its head or its attention is not what a policy has."""
    name = policy.config.architecture
    head = policy.native.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise ConfigError(f"{name} has no linear head; it cannot be the policy")
    if getattr(head, "bias", None) is not None:
        raise ConfigError(
            f"{name} adds a bias to its logits, which the fp32 head does not; it cannot be the policy"
        )
    ids_L = torch.arange(min(NUM_TOKENS, policy.config.max_position_embeddings), device=policy.device)
    ids_L = ids_L * 7919 % policy.config.vocab_size
    try:
        hidden_LD, theirs_LV = policy.read(ids_L[None])[0], _their_logits(policy, ids_L)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ConfigError(
            f"{name} does not read plain token ids: {error!r}; it cannot be the policy"
        ) from error
    policy.logit_scale = _find_scale(policy, policy.logits(hidden_LD), theirs_LV)
    _check_causal(policy, ids_L, hidden_LD)


def _find_scale(policy: HfPolicy, raw_LV: Tensor, theirs_LV: Tensor) -> float:
    """The factor that makes the head's logits theirs, among those that the config names."""
    off = {scale: float((raw_LV * scale - theirs_LV).abs().max()) for scale in _scales(policy)}
    best = min(off, key=lambda scale: off[scale])
    if not off[best] <= tolerance_of(policy) * max(1.0, float(theirs_LV.abs().max())):
        raise ConfigError(
            f"{policy.config.architecture} does not compute its logits as its head times its hidden states "
            f"(they differ by {off[best]:.3g}); it does something that this release does not know"
        )
    return best


def _scales(policy: HfPolicy) -> Iterator[float]:
    yield 1.0
    for name in SCALE_NAMES:
        value = getattr(policy.native.config, name, None)
        if isinstance(value, int | float) and value > 0:
            yield float(value)
            yield 1.0 / float(value)


def _check_causal(policy: HfPolicy, ids_L: Tensor, hidden_LD: Tensor) -> None:
    """Another last token must not change what is said of those before it."""
    other_L = ids_L.clone()
    other_L[-1] = (other_L[-1] + 1) % policy.config.vocab_size
    before = hidden_LD[:-1].float()
    changed = float((policy.read(other_L[None])[0, :-1].float() - before).abs().max()) if len(before) else 0.0
    if not changed <= tolerance_of(policy) * max(1.0, float(before.abs().max()) if len(before) else 1.0):
        raise ConfigError(
            f"{policy.config.architecture} looks ahead: a later token changes what it says of earlier ones "
            f"(by {changed:.3g}); only a causal model can be the policy"
        )


def _their_logits(policy: HfPolicy, ids_L: Tensor) -> Tensor:
    logits_LV: Tensor = policy.native(input_ids=ids_L[None], use_cache=False).logits[0].float()
    return logits_LV


def tolerance_of(policy: HfPolicy) -> float:
    """Relative difference that rounding explains."""
    return TOLERANCES.get(policy.head_weight.dtype, LOOSE)
