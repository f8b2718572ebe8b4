"""Where a layer's experts are: all in this process, or some whole ones in each of several.

A port with two forms. Legend: T tokens, K slots a token, E experts of all processes, n processes, R rows
(token, slot) of this process, S rows for its experts, F = 2 I.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from forklight_kernels import ExpertSpread, Residual, moe_experts, moe_experts_spread
from forklight_kernels.recompute import Result, kept
from forklight_model.shard import WHOLE, Shard
from forklight_model.spread.peers import Peers
from forklight_model.upload import upload

Matrices = tuple[Tensor, Tensor]
"""w13_EFD and w2_EID of the experts that this process holds."""


class ExpertPlaces(Protocol):
    """Expert e lives in process e // (E / n). All processes make the same calls in the same order."""

    @property
    def shard(self) -> Shard:
        """Which of the experts this process holds."""
        ...

    def mix(
        self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, matrices: Matrices, residual: Residual
    ) -> Tensor:
        """What `moe_experts` gives with all experts, bits included."""
        ...


class LocalExperts:
    """This process has all of them."""

    shard = WHOLE

    def mix(
        self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, matrices: Matrices, residual: Residual
    ) -> Tensor:
        return moe_experts(x_TD, weights_TK, experts_TK, *matrices, residual)


LOCAL_EXPERTS = LocalExperts()


class DistributedExperts:
    """Rows travel to their expert's process and back: three messages forward, four backward, a layer.

    The host waits for the GPU once a layer, to learn how many rows come; a layer that runs again for its
    gradient remembers.
    """

    def __init__(self, peers: Peers) -> None:
        self.peers, self.shard = peers, peers.shard

    def mix(
        self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, matrices: Matrices, residual: Residual
    ) -> Tensor:
        w13_EFD, w2_EID = matrices
        spread = ExpertSpread(
            num_experts=len(w2_EID) * self.shard.size,
            w13_EFD=w13_EFD,
            w2_EID=w2_EID,
            start_trip=self._start_trip,
        )
        return moe_experts_spread(x_TD, weights_TK, experts_TK, spread, residual)

    def _start_trip(self, counts_E: Tensor) -> "_Trip":
        (known_2nE,) = kept(Result.SPLITS, lambda: (self._exchange_counts(counts_E),))
        sent_n, arriving_n = known_2nE.sum(dim=2).tolist()
        arriving_nE = known_2nE[1]
        expert_nE = torch.arange(arriving_nE.shape[1]).repeat(self.shard.size)
        experts_S = torch.repeat_interleave(
            upload(expert_nE, counts_E.device),
            upload(arriving_nE.flatten(), counts_E.device),
            output_size=sum(arriving_n),
        )
        return _Trip(peers=self.peers, sent=sent_n, arriving=arriving_n, experts_S=experts_S)

    def _exchange_counts(self, counts_E: Tensor) -> Tensor:
        """[2, n, E / n] on the host: rows for each process's experts, rows of each process for own ones."""
        return torch.stack((counts_E, self.peers.swap(counts_E))).cpu().view(2, self.shard.size, -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trip:
    """A `RowTrip` over a process group."""

    peers: Peers
    sent: list[int]
    arriving: list[int]
    experts_S: Tensor

    def to_owners(self, rows_RW: Tensor) -> Tensor:
        return self.peers.swap_rows(rows_RW, self.sent, self.arriving)

    def to_sources(self, rows_SW: Tensor) -> Tensor:
        return self.peers.swap_rows(rows_SW, self.arriving, self.sent)
