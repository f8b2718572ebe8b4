"""What a client may ask for. A field that is not here is refused; one that would change nothing may be sent.

Fields of OpenAI's API keep its meaning; those of vLLM's (top_k, min_p, stop_token_ids, ignore_eos,
return_token_ids) keep vLLM's; repetition_tokens and repetition_probability are this project's.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from forklight_rollout.http.refusals import RefusalError, bad_request

MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256

Request = TypeVar("Request", bound=BaseModel)
StopText = Annotated[str, Field(min_length=1, max_length=MOST_STOP_CHARACTERS)]


def only(*allowed: object, why: str) -> AfterValidator:
    """A field that may be sent with a value that changes nothing."""

    def check(value: object) -> object:
        if value is not None and value not in allowed:
            raise ValueError(why)
        return value

    return AfterValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool | None = None
    """A last chunk without choices that has the usage."""


class GenerationRequest(_Strict):
    """What both endpoints take. None is the default of each."""

    model: str | None = None
    """Must be the name that /v1/models gives."""
    n: Annotated[int | None, Field(ge=1)] = None
    """Samples of each prompt; sample i draws with seed + i."""
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    """Most new tokens; by default what fits the window."""
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    """The newer name of max_tokens."""
    temperature: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """0 is greedy; 1 by default."""
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    """0 and -1 keep all tokens."""
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**64)] = None
    """The same seed and weights give the same tokens; drawn, and told in the reply, when absent."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    """Text that ends a sample; it is not part of the reply's text, its tokens are part of the token ids."""
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    """The tokenizer's own stop ids end nothing."""
    repetition_tokens: Annotated[int | None, Field(ge=1)] = None
    """End after so many near-certain tokens in a row, with finish_reason "repetition"."""
    repetition_probability: Annotated[float | None, Field(gt=0, lt=1)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    """Token ids of prompt and response beside the text."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    frequency_penalty: Annotated[float | None, only(0, why="penalties are not implemented; leave it out")] = (
        None
    )
    presence_penalty: Annotated[float | None, only(0, why="penalties are not implemented; leave it out")] = (
        None
    )
    repetition_penalty: Annotated[
        float | None, only(1, why="penalties are not implemented; leave it out")
    ] = None
    logit_bias: Annotated[dict[str, float] | None, only({}, why="is not implemented; leave it out")] = None


class CompletionRequest(GenerationRequest):
    """Goes on from a prompt as it is: text is encoded with markup as markup, and nothing is added to it."""

    prompt: str | list[str] | list[int] | list[list[int]]
    """Text, texts, token ids, or several lists of token ids."""
    logprobs: Annotated[int | None, Field(ge=0)] = None
    """0: log-probs of the drawn tokens. Alternatives are not kept."""
    echo: Annotated[bool | None, only(False, why="the prompt is not repeated; leave it out")] = None
    best_of: Annotated[int | None, Field(ge=1)] = None
    """Must be n: every sample is returned."""
    suffix: Annotated[str | None, only("", why="text cannot be put before a suffix; leave it out")] = None


class TextPart(_Strict):
    """A part of a message; only text can be read."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[object] | None, only([], why="calls are text here; put it in content")] = None
    refusal: None = None
    audio: None = None
    function_call: None = None

    @property
    def text(self) -> str:
        """Its text, whatever form it came in."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """Answers a conversation; messages become a prompt by the tokenizer's chat format."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    logprobs: bool | None = None
    """Log-probs of the drawn tokens."""
    top_logprobs: Annotated[int | None, Field(ge=0)] = None
    tools: Annotated[
        list[object] | None, only([], why="there is no markup for tools; describe them in a message")
    ] = None
    tool_choice: Annotated[str | None, only("none", "auto", why="there are no tools to choose")] = None
    response_format: Annotated[
        dict[str, object] | None, only({"type": "text"}, why="only text is generated; leave it out")
    ] = None


def parse_request(kind: type[Request], body: bytes) -> Request:
    """A request, or a refusal that names the parameter."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _refusal(kind: type[BaseModel], error: ValidationError) -> RefusalError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    name = str(place[0]) if place else None
    if first["type"] == "json_invalid" or name is None:
        return bad_request(None, f"the body is not a JSON object of this endpoint: {first['msg']}")
    if name == "messages":
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if first["type"] == "extra_forbidden":
        return bad_request(name, f"{name} is not a field this endpoint knows{_nearest(kind, name)}")
    if name == "prompt" and len(first["loc"]) > 1:
        return bad_request(
            name, "prompt must be text, a list of texts, a list of token ids, or a list of such lists"
        )
    return bad_request(name, f"{name}: {first['msg'].removeprefix('Value error, ')}")


def _nearest(kind: type[BaseModel], name: str) -> str:
    near = difflib.get_close_matches(name, kind.model_fields, n=1)
    return f"; do you mean {near[0]}?" if near else ""
