"""What a block that runs twice (once forward, once again for its gradient) need not compute twice.

Whoever recomputes hands `twice_run(...)` to torch's checkpoint as its two contexts. An op asks `kept(...)`
for what is dear to compute and cheap to hold, and `is_repeating()` before work for the first run alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType

from torch import Tensor

Tensors = tuple[Tensor, ...]


class Result(StrEnum):
    """What an op can keep from the first run to the second."""

    ATTENTION = "attention"
    """Softmax attention's output and row sums: quadratic to compute, one hidden state a token to hold."""
    EXPERTS = "experts"
    """The experts' gate and up: most of a block's arithmetic, and most of its memory."""
    SPLITS = "splits"
    """How many rows go to which process's experts, on the host: a message and a wait for the GPU."""


@dataclass(slots=True)
class _Run(AbstractContextManager[None]):
    kept: dict[Result, Tensors]
    keeps: frozenset[Result]
    is_again: bool
    token: Token["_Run | None"] | None = field(default=None)

    def __enter__(self) -> None:
        self.token = _current.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.token is not None:
            _current.reset(self.token)


_current: ContextVar[_Run | None] = ContextVar("forklight_kernels_block_run", default=None)


Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def twice_run(keeps: frozenset[Result]) -> Contexts:
    """Contexts of a block's first run and of its second one, whose last op's output nobody reads."""
    held: dict[Result, Tensors] = {}
    return _Run(held, keeps, is_again=False), _Run(held, keeps, is_again=True)


def is_twice_run() -> bool:
    """What ops save in this block is dropped and computed again, so saving more costs no memory."""
    return _current.get() is not None


def is_repeating() -> bool:
    """This run is for the tensors that ops save for their gradients; the block's own output is not read."""
    run = _current.get()
    return run is not None and run.is_again


def kept(result: Result, compute: Callable[[], Tensors]) -> Tensors:
    """The tensors that `compute` returns, from the first run where they were kept. Handed over once."""
    run = _current.get()
    if run is None or result not in run.keeps:
        return compute()
    if run.is_again and result in run.kept:
        return run.kept.pop(result)
    tensors = compute()
    if not run.is_again:
        # Aliases: the tensors themselves become results of this run's graph.
        run.kept[result] = tuple(tensor.detach() for tensor in tensors)
    return tensors
