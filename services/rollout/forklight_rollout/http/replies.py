"""What a client gets: OpenAI's objects, whole or in chunks, with this project's fields under `forklight`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from forklight_rollout.http.generation import Generation, Piece, TokenText
from forklight_rollout.http.plan import Endpoint
from forklight_rollout.http.refusals import Json

LEAST_LOGPROB = -9999.0
"""JSON has no infinity and no NaN."""


class Replies(ABC):
    """The replies to one request."""

    whole_object: str
    chunk_object: str

    def __init__(self, generation: Generation, *, model: str, created: int) -> None:
        self._generation = generation
        self._plan = generation.plan
        self._model = model
        self._created = created

    @abstractmethod
    def begin_choice(self, index: int) -> Json | None:
        """A chunk's choice before the first token, where the endpoint has one."""

    @abstractmethod
    def _content(self, piece: Piece, *, is_whole: bool) -> Json:
        """Text and log-probs of a choice."""

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """The answer that is not streamed."""
        choices = [self._choice(piece, is_whole=True) for piece in pieces]
        return self._envelope(self.whole_object, choices, is_first=True) | {"usage": self.usage()}

    def chunk(self, choices: Sequence[Json], *, is_first: bool = False) -> Json:
        """A part of a stream."""
        body = self._envelope(self.chunk_object, choices, is_first=is_first)
        return body | {"usage": None} if self._plan.gives_usage_at_end else body

    def usage_chunk(self) -> Json:
        """The last part of a stream that asked for it."""
        return self._envelope(self.chunk_object, [], is_first=False) | {"usage": self.usage()}

    def chunk_choice(self, piece: Piece) -> Json | None:
        """A chunk's choice; None while there is nothing to tell."""
        if piece.text or piece.tokens or piece.ending is not None:
            return self._choice(piece, is_whole=False)
        return None

    def usage(self) -> Json:
        """Tokens of the request so far."""
        num_prompt, num_response = self._generation.num_prompt_tokens, self._generation.num_response_tokens
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_response,
            "total_tokens": num_prompt + num_response,
        }

    def _envelope(self, kind: str, choices: Sequence[Json], *, is_first: bool) -> Json:
        return {
            "id": self._plan.request_id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": list(choices),
        }

    def _choice(self, piece: Piece, *, is_whole: bool) -> Json:
        body: Json = {"index": piece.index, **self._content(piece, is_whole=is_whole)}
        body["finish_reason"] = None if piece.ending is None else piece.ending.reason.value
        if self._plan.gives_token_ids:
            body["token_ids"] = [token.id for token in piece.tokens]
        if extension := self._extension(piece):
            body["forklight"] = extension
        return body

    def _extension(self, piece: Piece) -> Json:
        """Log-probs at temperature 1 and without filters; with the end, seed and policy versions."""
        body: Json = {}
        if self._plan.gives_logprobs:
            body["raw_logprobs"] = [_finite(token.raw_logprob) for token in piece.tokens]
        if piece.ending is not None:
            body["seed"] = self._plan.seed_of(piece.index)
            body["version_spans"] = [
                {"start": span.start, "version": span.version} for span in piece.ending.spans
            ]
        return body


class CompletionReplies(Replies):
    """/v1/completions."""

    whole_object = "text_completion"
    chunk_object = "text_completion"

    def begin_choice(self, index: int) -> Json | None:
        if not self._plan.gives_token_ids:
            return None
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None, **self._prompt(index)}

    def _content(self, piece: Piece, *, is_whole: bool) -> Json:
        logprobs = _completion_logprobs(piece.tokens) if self._plan.gives_logprobs else None
        prompt = self._prompt(piece.index) if is_whole and self._plan.gives_token_ids else {}
        return {"text": piece.text, "logprobs": logprobs, **prompt}

    def _prompt(self, index: int) -> Json:
        return {"prompt_token_ids": list(self._plan.prompt_of(index).ids)}


class ChatReplies(Replies):
    """/v1/chat/completions."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def begin_choice(self, index: int) -> Json | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _content(self, piece: Piece, *, is_whole: bool) -> Json:
        logprobs = _chat_logprobs(piece.tokens) if self._plan.gives_logprobs else None
        if is_whole:
            message = {"role": "assistant", "content": piece.text, "refusal": None}
            return {"message": message, "logprobs": logprobs}
        return {"delta": {"content": piece.text} if piece.text else {}, "logprobs": logprobs}

    def _envelope(self, kind: str, choices: Sequence[Json], *, is_first: bool) -> Json:
        body = super()._envelope(kind, choices, is_first=is_first)
        if is_first and self._plan.gives_token_ids:
            body["prompt_token_ids"] = list(self._plan.prompts[0].ids)
        return body


def make_replies(generation: Generation, *, model: str, created: int) -> Replies:
    """Those of the endpoint that was asked."""
    kind = ChatReplies if generation.plan.endpoint is Endpoint.CHAT else CompletionReplies
    return kind(generation, model=model, created=created)


def _completion_logprobs(tokens: Sequence[TokenText]) -> Json:
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": None,
        "text_offset": [token.offset for token in tokens],
    }


def _chat_logprobs(tokens: Sequence[TokenText]) -> Json:
    content = [
        {
            "token": token.text,
            "logprob": _finite(token.logprob),
            "bytes": list(token.text.encode()),
            "top_logprobs": [],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _finite(logprob: float) -> float:
    return max(LEAST_LOGPROB, logprob)  # in this order, what is not a number is the least too
