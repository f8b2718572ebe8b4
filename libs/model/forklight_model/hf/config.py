"""The configuration of a transformers model, as its config.json holds it; which ones are refused, and why.

A model that this code would compute differently from transformers is refused with the reason, never read in
part. Needs transformers for one thing: a config's defaults are those of its class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forklight_core.errors import ConfigError
from forklight_model.config import CONFIG_FILE
from forklight_model.hf.install import numerics, require_transformers

NO_LIMIT = 1 << 20
"""Longest sequence of a model whose config names none."""
LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
MOVING_ROPE = ("dynamic", "longrope")
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True, slots=True, kw_only=True)
class HfConfig:
    """See `policy.PolicyConfig`."""

    architecture: str
    vocab_size: int
    max_position_embeddings: int
    router_aux_loss_coef: float
    numerics: str
    published_json: str
    """config.json's mapping, canonical: what is published is what came."""

    def to_published(self) -> dict[str, object]:
        published: dict[str, object] = json.loads(self.published_json)
        return published


def read_hf_config(mapping: Mapping[str, object]) -> HfConfig:
    """What Forklight needs to know; ConfigError names what this code cannot compute."""
    native = native_config(mapping)
    return HfConfig(
        architecture=str(_architecture(mapping)),
        vocab_size=int(native.vocab_size),
        max_position_embeddings=_longest(native),
        router_aux_loss_coef=float(getattr(native, "router_aux_loss_coef", None) or 0.0),
        numerics=numerics(),
        published_json=json.dumps(dict(mapping), sort_keys=True),
    )


def native_config(mapping: Mapping[str, object]) -> Any:  # noqa: ANN401  # transformers' own types are Any
    """transformers' own object for a config.json, without dropout: a policy is one distribution."""
    require_transformers()
    _refuse(_unknown(mapping))
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        native = CONFIG_MAPPING[mapping["model_type"]].from_dict(dict(mapping))
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        raise ConfigError(f"transformers cannot read this {CONFIG_FILE}: {error!r}") from error
    _refuse(_unfit(native))
    for name, value in native.to_dict().items():
        if isinstance(value, float) and name.endswith(("dropout", "pdrop", "layerdrop")):
            setattr(native, name, 0.0)
    return native


def _architecture(mapping: Mapping[str, object]) -> str | None:
    named = mapping.get("architectures")
    return str(named[0]) if isinstance(named, list) and len(named) == 1 else None


def _unknown(mapping: Mapping[str, object]) -> Iterator[str]:
    """What can be told before transformers reads the mapping."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, named = mapping.get("model_type"), mapping.get("architectures")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        own = "; code that comes with a model (auto_map) is never run" if "auto_map" in mapping else ""
        yield f"model_type = {kind!r} is not known to transformers {require_transformers()}{own}"
        return
    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if expected is None:
        yield f"model_type = {kind!r} has no causal language model in transformers: a policy reads forwards"
    elif _architecture(mapping) != expected:
        yield (
            f"architectures = {named!r} is not a causal language model; for model_type = {kind!r} that is "
            f"{expected}"
        )
    if mapping.get("quantization_config") is not None:
        yield "quantization_config: quantised weights cannot be trained; bring a folder of plain ones"


def _unfit(native: Any) -> Iterator[str]:  # noqa: ANN401
    """Switches that change what a token sees or what becomes of its logits in ways not implemented here."""
    for name in SOFT_CAPS:
        if getattr(native, name, None):
            yield f"{name} = {getattr(native, name)}: the fp32 head knows no soft cap on logits"
    if native.get_text_config() is not native:
        yield "it reads more than text; bring the folder of its text model"
    if getattr(native, "is_encoder_decoder", False):
        yield "it has an encoder; a policy reads left to right"
    if getattr(native, "is_decoder", True) is False and hasattr(native, "type_vocab_size"):
        yield "is_decoder is false: an encoder reads both ways, and a policy left to right"
    for kind in sorted(set(_rope_kinds(native)) & set(MOVING_ROPE)):
        yield (
            f"rope_type = {kind!r} turns a token by how long its sequence is going to be: generation and "
            "training would disagree about it; set rope_parameters to a fixed type"
        )


def _rope_kinds(native: Any) -> Iterator[str]:  # noqa: ANN401
    """Of all layers, or of each kind of layer."""
    parameters = getattr(native, "rope_parameters", None)
    for each in (parameters, *(parameters.values() if isinstance(parameters, dict) else ())):
        if isinstance(each, dict) and "rope_type" in each:
            yield str(each["rope_type"])


def _longest(native: Any) -> int:  # noqa: ANN401
    found = (getattr(native, name, None) for name in LENGTH_NAMES)
    return next((int(each) for each in found if isinstance(each, int) and each > 0), NO_LIMIT)


def _refuse(problems: Iterator[str]) -> None:
    if found := list(problems):
        raise ConfigError("this model cannot be the policy: " + "; ".join(found))
