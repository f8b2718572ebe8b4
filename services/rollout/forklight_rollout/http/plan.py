"""From a request to what is asked of the engine. All checks that need this pod's weights are here."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forklight_core.errors import InvalidInputError
from forklight_model.chat import ChatFormat
from forklight_model.tokenizer import Tokenizer
from forklight_rollout.admission import check_prompt, check_rules, check_window
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.http.chat import encode_messages
from forklight_rollout.http.refusals import RefusalError, bad_request
from forklight_rollout.http.requests import ChatRequest, CompletionRequest, GenerationRequest
from forklight_rollout.ports import DrawRules, EndRules, EngineLimits

NEAR_CERTAIN = 0.99


class Endpoint(StrEnum):
    """Which one was asked; the values are OpenTelemetry's names of the operation."""

    COMPLETION = "text_completion"
    CHAT = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What there is once the pod has weights."""

    thread: EngineThread
    tokenizer: Tokenizer
    chat: ChatFormat
    why_closed: Callable[[], str]
    """Why the pod takes no work now; empty while it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBounds:
    """What one request may ask for."""

    model: str
    max_new_tokens: int  # 0: what fits the window
    max_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPrompt:
    """One prompt and when its samples end."""

    ids: tuple[int, ...]
    end: EndRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request that can be generated. Its choices are the samples of the first prompt, of the next, ..."""

    request_id: str
    endpoint: Endpoint
    prompts: tuple[PlannedPrompt, ...]
    num_samples: int  # of each prompt
    seed: int  # of the first sample of each prompt
    draw: DrawRules
    stop_strings: tuple[str, ...]
    gives_logprobs: bool
    gives_token_ids: bool
    is_stream: bool
    gives_usage_at_end: bool

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.num_samples

    def prompt_of(self, choice: int) -> PlannedPrompt:
        return self.prompts[choice // self.num_samples]

    def seed_of(self, choice: int) -> int:
        """As in a group of the queue: one more for each sample."""
        return (self.seed + choice % self.num_samples) % 2**64


def plan_completion(request: CompletionRequest, backend: Backend, bounds: RequestBounds) -> Plan:
    """What a completion asks for, or a RefusalError that names the parameter."""
    if request.logprobs:
        raise bad_request(
            "logprobs",
            f"is {request.logprobs}: only the drawn token's log-prob is kept, no alternatives; ask for 0",
        )
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise bad_request("best_of", "must be n: every sample is returned; leave it out")
    prompts = _read_prompts(request.prompt, backend.tokenizer)
    return _plan(
        request, Endpoint.COMPLETION, prompts, backend, bounds, gives_logprobs=request.logprobs is not None
    )


def plan_chat(request: ChatRequest, backend: Backend, bounds: RequestBounds) -> Plan:
    """What a chat asks for, or a RefusalError that names the parameter."""
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("top_logprobs", "needs logprobs: true")
    if request.top_logprobs:
        raise bad_request(
            "top_logprobs",
            f"is {request.top_logprobs}: only the drawn token's log-prob is kept, no alternatives; ask for 0",
        )
    prompts = [encode_messages(backend.chat, request.messages)]
    return _plan(request, Endpoint.CHAT, prompts, backend, bounds, gives_logprobs=bool(request.logprobs))


def _plan(
    request: GenerationRequest,
    endpoint: Endpoint,
    prompts: Sequence[Sequence[int]],
    backend: Backend,
    bounds: RequestBounds,
    *,
    gives_logprobs: bool,
) -> Plan:
    _check_together(request)
    num_samples = request.n or 1
    if len(prompts) * num_samples > bounds.max_samples:
        raise bad_request(
            "n", f"{len(prompts)} prompts x n {num_samples} are more than {bounds.max_samples} samples"
        )
    draw = _read_draw(request)
    planned = [_plan_prompt(request, endpoint, ids, backend, bounds) for ids in prompts]
    prefix = "cmpl" if endpoint is Endpoint.COMPLETION else "chatcmpl"
    return Plan(
        request_id=f"{prefix}-{uuid.uuid4().hex}",
        endpoint=endpoint,
        prompts=tuple(planned),
        num_samples=num_samples,
        seed=secrets.randbits(63) if request.seed is None else request.seed % 2**64,
        draw=draw,
        stop_strings=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
        gives_logprobs=gives_logprobs,
        gives_token_ids=bool(request.return_token_ids),
        is_stream=bool(request.stream),
        gives_usage_at_end=bool(request.stream_options and request.stream_options.include_usage),
    )


def _plan_prompt(
    request: GenerationRequest,
    endpoint: Endpoint,
    ids: Sequence[int],
    backend: Backend,
    bounds: RequestBounds,
) -> PlannedPrompt:
    """By the same rules as a task of the queue."""
    limits = backend.thread.limits
    fits = min(limits.max_tokens - len(ids), bounds.max_new_tokens or limits.max_tokens)
    end = EndRules(
        max_new_tokens=_read_max_tokens(request, bounds) or max(1, fits),
        stop_ids=_read_stop_ids(request, backend.tokenizer, limits),
        repetition_tokens=request.repetition_tokens or 0,
        repetition_probability=request.repetition_probability or NEAR_CERTAIN,
    )
    prompt = tuple(ids)
    try:
        check_rules(_read_draw(request), end, "request")
        check_prompt(prompt, limits, "request")
        check_window(len(prompt), end, "request", limits)
    except InvalidInputError as error:
        raise _translate(error, endpoint) from error
    return PlannedPrompt(ids=prompt, end=end)


def _translate(error: InvalidInputError, endpoint: Endpoint) -> RefusalError:
    """A refusal of the door all work passes, in the names of this API."""
    text = str(error).removeprefix("request: ").replace("sampling.max_new_tokens", "max_tokens")
    text = text.replace("sampling.", "")
    param = "stop_token_ids" if text.startswith("stop token ids") else text.partition(" ")[0]
    if param == "prompt" and endpoint is Endpoint.CHAT:
        return bad_request("messages", f"the {text}")
    return bad_request(param, text)


def _read_prompts(prompt: str | Sequence[object], tokenizer: Tokenizer) -> list[Sequence[int]]:
    """Every prompt's ids. Lists hold one kind of thing: the request was checked for that."""
    if isinstance(prompt, str):
        return [_encode(prompt, tokenizer)]
    if not prompt:
        raise bad_request("prompt", "prompt is empty; there is nothing to continue")
    if all(isinstance(each, int) for each in prompt):
        return [[each for each in prompt if isinstance(each, int)]]
    return [
        _encode(each, tokenizer) if isinstance(each, str) else list(each)
        for each in prompt
        if isinstance(each, str | list)
    ]


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    try:
        return tokenizer.encode(text)
    except InvalidInputError as error:
        raise bad_request("prompt", f"prompt cannot be encoded: {error}") from error


def _read_draw(request: GenerationRequest) -> DrawRules:
    return DrawRules(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
    )


def _read_max_tokens(request: GenerationRequest, bounds: RequestBounds) -> int | None:
    """Of both names; None when neither was given."""
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    if asked is not None and bounds.max_new_tokens and asked > bounds.max_new_tokens:
        raise bad_request(name, f"{name} is {asked}; this pod allows {bounds.max_new_tokens}")
    return asked


def _read_stop_ids(request: GenerationRequest, tokenizer: Tokenizer, limits: EngineLimits) -> frozenset[int]:
    asked = frozenset(request.stop_token_ids or ())
    if outside := [token for token in asked if not 0 <= token < limits.vocabulary_size]:
        raise bad_request(
            "stop_token_ids",
            f"stop_token_ids has {outside[0]}, outside the vocabulary of {limits.vocabulary_size}",
        )
    return asked if request.ignore_eos else asked | tokenizer.stop_ids


def _check_together(request: GenerationRequest) -> None:
    """Options that contradict each other."""
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise bad_request(
            "max_tokens", f"max_tokens is {both[0]} and max_completion_tokens {both[1]}; send one"
        )
    if request.stream_options is not None and not request.stream:
        raise bad_request("stream_options", "stream_options needs stream: true")
    if request.repetition_probability is not None and request.repetition_tokens is None:
        raise bad_request("repetition_probability", "repetition_probability needs repetition_tokens")
