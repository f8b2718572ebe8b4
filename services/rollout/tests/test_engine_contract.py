"""The engines here keep the contract of engines, and it notices one that breaks it; vLLM's is in `vllm/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.ports import EngineLimits, PromptStart, StepTokens
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests import engine_contract
from services.rollout.tests.engine_contract import EngineCase

LIMITS = EngineLimits(num_sequences=4, max_tokens=200, vocabulary_size=103)


@dataclass(frozen=True)
class Named:
    """All that an engine in memory looks at."""

    version: int


class ForgetsPrefixes(MemoryEngine):
    def admit(self, prompt: PromptStart) -> None:
        bare = tuple(replace(start, prefix_ids=()) for start in prompt.sequences)
        super().admit(replace(prompt, sequences=bare))


class ForgetsCertainty(MemoryEngine):
    def admit(self, prompt: PromptStart) -> None:
        bare = tuple(replace(start, num_certain=0) for start in prompt.sequences)
        super().admit(replace(prompt, sequences=bare))


class NeverStops(MemoryEngine):
    def admit(self, prompt: PromptStart) -> None:
        super().admit(replace(prompt, end=replace(prompt.end, stop_ids=frozenset())))


class NeverRetires(MemoryEngine):
    def step(self) -> StepTokens:
        tokens = super().step()
        for key, reason in zip(tokens.keys, tokens.reasons, strict=True):
            if reason is not None:
                super().retire([key])
        return tokens

    def retire(self, keys: Sequence[int]) -> None:
        pass


class StampsOldVersions(MemoryEngine):
    def step(self) -> StepTokens:
        return replace(super().step(), version=0)


class DropsLogprobs(MemoryEngine):
    def step(self) -> StepTokens:
        tokens = super().step()
        return replace(tokens, logprobs=tokens.logprobs[1:])


class SpeaksAfterTheEnd(MemoryEngine):
    def step(self) -> StepTokens:
        tokens = super().step()
        return replace(tokens, **{name: [*getattr(tokens, name)] * 2 for name in COLUMNS})


class LosesSequences(MemoryEngine):
    def admit(self, prompt: PromptStart) -> None:
        super().admit(replace(prompt, sequences=prompt.sequences[:1]))


class RefusesNothing(MemoryEngine):
    def swap(self) -> None:
        self._version += 1


COLUMNS = ("keys", "ids", "logprobs", "raw_logprobs", "reasons")
BROKEN = (
    (ForgetsPrefixes, engine_contract.check_length_counts_the_prefix),
    (ForgetsPrefixes, engine_contract.check_a_partial_response_goes_on_as_the_whole),
    (ForgetsCertainty, engine_contract.check_repetition_ends_on_the_exact_token),
    (NeverStops, engine_contract.check_a_stop_token_ends_on_the_exact_token),
    (NeverRetires, engine_contract.check_nothing_of_a_retired_sequence_is_delivered),
    (StampsOldVersions, engine_contract.check_versions_switch_once_over_a_swap),
    (DropsLogprobs, engine_contract.check_logprobs_are_aligned_and_never_positive),
    (SpeaksAfterTheEnd, engine_contract.check_length_counts_the_prefix),
    (LosesSequences, engine_contract.check_a_full_engine_loses_nobody),
    (RefusesNothing, engine_contract.check_bad_weights_change_nothing),
)


@pytest.mark.parametrize(("broken", "check"), BROKEN, ids=lambda each: each.__name__)
def test_a_broken_engine_is_noticed(
    broken: type[MemoryEngine], check: Callable[[EngineCase], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_contract, "DEADLINE_S", 0.5)
    weights: tuple[PublishedWeights, PublishedWeights] = (Named(0), Named(1))  # type: ignore[assignment]

    def case(kind: type[MemoryEngine]) -> EngineCase:
        return EngineCase(make=lambda: kind(LIMITS), weights=weights, is_model=False)

    check(case(MemoryEngine))
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        check(case(broken))


@pytest.mark.parametrize("check", engine_contract.CHECKS, ids=lambda each: each.__name__)
def test_the_engine_in_memory_keeps_the_contract(check: Callable[[EngineCase], None]) -> None:
    weights: tuple[PublishedWeights, PublishedWeights] = (Named(0), Named(1))  # type: ignore[assignment]
    check(EngineCase(make=lambda: MemoryEngine(LIMITS), weights=weights, is_model=False))


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("check", engine_contract.CHECKS, ids=lambda each: each.__name__)
def test_the_native_engine_keeps_the_contract(
    check: Callable[[EngineCase], None],
    make_engine: Callable[..., NativeEngine],
    published: dict[int, PublishedWeights],
    torn: PublishedWeights,
    runs_ahead: bool,
) -> None:
    check(
        EngineCase(
            make=lambda: make_engine(max_batch=4, max_prompt_tokens=130, runs_ahead=runs_ahead),
            weights=(published[0], published[1]),
            bad_weights=torn,
        )
    )


@pytest.fixture
def torn(published: dict[int, PublishedWeights]) -> PublishedWeights:
    """Weights whose tensors are not those that the manifest names."""
    weights = published[1]
    tensors = dict(weights.manifest.tensors)
    tensors["model.embed_tokens.weight"] = replace(tensors["model.embed_tokens.weight"], shape=(3, 3))
    return replace(weights, manifest=replace(weights.manifest, tensors=tensors, version=9))
