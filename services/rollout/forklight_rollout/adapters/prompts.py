"""Prompts on their way into the batch: prefilled once a group, in fixed pieces, kept for forking.

Pieces always end at multiples of PIECE_TOKENS, so a prompt's numbers do not depend on what else is prefilled.
Legend: T tokens of one prompt, B prompts prefilled together, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from forklight_core.wire import RoutingArrays
from forklight_model.cache import HybridCache
from forklight_model.inference import prefill
from forklight_model.model import HybridModel
from forklight_model.routing import Routing
from forklight_rollout.adapters.choices import cut_choices, join_choices, read_choices
from forklight_rollout.ports import PromptStart, SequenceStart

PIECE_TOKENS = 1024
ROUND_TOKENS = 2048
"""Prompt tokens prefilled between two decode steps (at least one piece): how long decoding may wait."""
NO_SLOT = -1


@dataclass(slots=True, eq=False)
class Prompt:
    """A group's prompt: its slot once it has one, its last logits once it is prefilled."""

    ids_T: Tensor
    temperature: float
    top_p: float
    waiting: list[SequenceStart] = field(default_factory=list)
    slot: int = NO_SLOT
    num_done: int = 0
    logits_V: Tensor | None = None
    choices: list[RoutingArrays] = field(default_factory=list)
    """Of the pieces done so far; one for the whole prompt once it is prefilled. Empty without recording."""

    def next_piece(self) -> Tensor:
        return self.ids_T[self.num_done : self.num_done + PIECE_TOKENS]


class PromptSlots:
    """The cache slots from `first_slot` on, and the prompts in them or waiting for one."""

    def __init__(self, cache: HybridCache, *, first_slot: int, records_routing: bool = False) -> None:
        self._cache = cache
        self._device = cache.lengths_S.device
        self._records_routing = records_routing
        self._free = list(range(first_slot, cache.num_slots))
        self._prompts: dict[int, Prompt] = {}  # by group, oldest first

    def admit(self, start: PromptStart) -> None:
        """Queue sequences behind their group's prompt."""
        prompt = self._prompts.get(start.group)
        if prompt is None:
            ids_T = torch.tensor(start.prompt_ids, device=self._device)
            prompt = Prompt(ids_T, start.temperature, start.top_p)
            self._prompts[start.group] = prompt
        prompt.waiting.extend(start.sequences)

    def forget(self, key: int) -> None:
        """Drop a sequence that has not started."""
        for prompt in self._prompts.values():
            prompt.waiting = [start for start in prompt.waiting if start.key != key]
        self._prompts = {
            group: prompt
            for group, prompt in self._prompts.items()
            if prompt.waiting or prompt.slot != NO_SLOT
        }

    def started(self, prompt: Prompt) -> None:
        """Its waiting sequences run now; the prompt stays until its slot is needed."""
        prompt.waiting = []

    def invalidate(self) -> None:
        """New weights: what was prefilled under the old ones is prefilled again before it is forked."""
        for prompt in self._prompts.values():
            self._release(prompt)
        self._prompts = {group: prompt for group, prompt in self._prompts.items() if prompt.waiting}

    def advance(self, model: HybridModel) -> list[tuple[Prompt, Tensor]]:
        """Prefill a round of pieces; returns the complete prompts that have sequences to start."""
        wanted = [prompt for prompt in self._prompts.values() if prompt.waiting]
        if not wanted:
            return []
        chosen = self._choose([prompt for prompt in wanted if prompt.logits_V is None])
        if chosen:
            self._prefill(model, chosen)
        return [(prompt, prompt.logits_V) for prompt in wanted if prompt.logits_V is not None]

    def _choose(self, unfinished: list[Prompt]) -> list[Prompt]:
        """The prompts whose next piece fits into this round, first come, first served."""
        chosen: list[Prompt] = []
        num_tokens = 0
        for prompt in unfinished:
            num_tokens += len(prompt.next_piece())
            if (chosen and num_tokens > ROUND_TOKENS) or not self._give_slot(prompt):
                break
            chosen.append(prompt)
        return chosen

    def _prefill(self, model: HybridModel, prompts: list[Prompt]) -> None:
        pieces = [prompt.next_piece() for prompt in prompts]
        lengths = [len(piece) for piece in pieces]
        cu_seqlens = torch.tensor([0, *lengths], device=self._device).cumsum(0).to(torch.int32)
        slots_B = torch.tensor([prompt.slot for prompt in prompts], device=self._device)
        routing = Routing() if self._records_routing else None
        logits_BV = prefill(model, self._cache, slots_B, torch.cat(pieces), cu_seqlens, routing)
        if routing is not None:
            for prompt, part in zip(prompts, cut_choices(read_choices(routing), lengths), strict=True):
                prompt.choices.append(part)
        for prompt, length, logits_V in zip(prompts, lengths, logits_BV, strict=True):
            prompt.num_done += length
            if prompt.num_done == len(prompt.ids_T):
                prompt.logits_V = logits_V
                prompt.choices = [join_choices(prompt.choices)] if prompt.choices else []

    def _give_slot(self, prompt: Prompt) -> bool:
        if prompt.slot == NO_SLOT:
            if not self._free and not self._evict():
                return False
            prompt.slot = self._free.pop()
            self._cache.reset([prompt.slot])
        return True

    def _evict(self) -> bool:
        """Free the slot of the oldest prompt that nothing waits for."""
        for group, prompt in self._prompts.items():
            if prompt.slot != NO_SLOT and not prompt.waiting:
                self._release(prompt)
                del self._prompts[group]
                return True
        return False

    def _release(self, prompt: Prompt) -> None:
        if prompt.slot != NO_SLOT:
            self._free.append(prompt.slot)
        prompt.slot, prompt.num_done, prompt.logits_V = NO_SLOT, 0, None
        prompt.choices = []
