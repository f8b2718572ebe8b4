"""An engine that writes given texts as if the run's model had drawn them, one a turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.memory import MemoryEngine, MemorySequence
from forklight_rollout.ports import EngineLimits, PromptStart
from forklight_rollout.tools.format import REPLY_CLOSE

TOKENIZER = build_character_tokenizer()
REPLY_TAIL = TOKENIZER.encode(REPLY_CLOSE)


class Writer(MemoryEngine):
    """Writes the turns of one of some policies, with the probabilities that the run's model gives them."""

    def __init__(self, model: HybridModel, turns: Sequence[Sequence[str]], *, max_tokens: int = 512) -> None:
        limits = EngineLimits(num_sequences=8, max_tokens=max_tokens, vocabulary_size=TOKENIZER.vocab_size)
        super().__init__(limits)
        self._model, self._policies = model, turns
        self._turns: dict[int, list[tuple[int, float]]] = {}

    def admit(self, prompt: PromptStart) -> None:
        super().admit(prompt)
        for start in prompt.sequences:
            text = self._policies[start.seed % len(self._policies)][count_replies(start.prefix_ids)]
            turn = [*TOKENIZER.encode(text), TOKENIZER.token_id("<eos>")]
            logprobs = self.score([*prompt.prompt_ids, *start.prefix_ids, *turn])[-len(turn) :]
            self._turns[id(self._sequences[start.key])] = list(zip(turn, logprobs, strict=True))

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        with torch.no_grad():
            ends = torch.tensor([0, len(ids)], dtype=torch.int32)
            scores: list[float] = token_logprobs(
                self._model, torch.tensor(ids), ends, 1.0
            ).logprobs_T.tolist()
        return scores[1:]

    def draw(self, sequence: MemorySequence) -> tuple[int, float]:
        return self._turns[id(sequence)].pop(0)


def count_replies(ids: Sequence[int]) -> int:
    return sum(list(ids[place : place + len(REPLY_TAIL)]) == REPLY_TAIL for place in range(len(ids)))
