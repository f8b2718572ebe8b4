"""Generation, and what it may call out to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forklight_core.runfile.sections.section import Section
from forklight_core.runfile.units import Count, Seconds


class RolloutSection(Section):
    """Generation."""

    pods: Annotated[int, Field(ge=1, le=64)] = 2
    """Rollout pods that `forklight up` starts on this machine."""
    engine: Literal["native", "vllm"] = "native"
    """What generates: this project's own engine (over transformers for model.hf), or vLLM (extra `vllm`)."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Sequences decoded together in a pod."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs of a pod that hold the model together, each a part of every layer (on a CPU: processes)."""
    drain_s: Seconds = 20.0
    """Time a pod may take to finish what runs when it is told to stop; a quarter of it saves the rest."""
    segment_tokens: Annotated[int, Field(ge=0)] = 4096
    """A response is saved when it has so many tokens more: what a dying pod costs. 0: only when it leaves."""
    swap_policy: Literal["keep", "restart", "finish"] = "keep"
    """Samples that run when a version comes: go on, begin anew, or end first while nothing new begins."""
    swap_cache: Literal["keep", "recompute"] = "keep"
    """Samples that go on: with the caches of the old weights, or with caches computed anew."""
    swap_finish_s: Seconds = 600.0
    """With `finish`: how long running samples may hold up a version; after that it is as with `keep`."""
    probe_tolerance: Annotated[float, Field(gt=0.0)] | None = None
    """Largest difference of a log-prob of the probe where equal bits cannot be had. None: by dtype."""
    collapse_share: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.2
    """A pod whose sequences get less than this share of their usual tokens/s takes itself out; 0: never."""
    collapse_s: Seconds = 120.0
    """For so long, without a break."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 lets torch choose."""


ToolName = Literal["python", "shell"]


class ToolsSection(Section):
    """What a generation may call out to. Its output is put into the response and never learned from."""

    names: tuple[ToolName, ...] = ()
    """Tools of every prompt that does not name fewer; none: no generation calls out."""
    max_calls: Annotated[int, Field(ge=1, le=1000)] = 8
    """Answered calls of one response; a further one is told that there are no more."""
    max_output_tokens: Annotated[Count, Field(ge=64, le=16384)] = 1024
    """Most tokens that one call puts into a response, markup included; they count as its length."""
    timeout_s: Annotated[Seconds, Field(le=300.0)] = 10.0
    """Time that one call may compute; running out of it is an answer, too."""
