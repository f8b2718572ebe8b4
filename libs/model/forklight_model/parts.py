"""Training state on disk: flat stretches of fp32 numbers by parameter name, written by any number of ranks.

state/part-00003-of-00008.safetensors holds what rank 3 of 8 owned. Owns the names inside these files and
reading them: a stretch is joined from whichever files have it, and no other byte is read.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError
from torch import Tensor

from forklight_core.errors import CheckpointError
from forklight_model.mapped_files import MappedFiles

STATE_FOLDER = "state"
FORMAT = "forklight-state/1"
PART_FILE = re.compile(r"part-(\d{5})-of-(\d{5})\.safetensors")
RANDOM_PREFIX = "random@"


class StateKey(StrEnum):
    """What a number is of its parameter."""

    WEIGHT = "weight"
    EXP_AVG = "exp_avg"
    EXP_AVG_SQ = "exp_avg_sq"


Shape = tuple[int, ...]
Named = tuple[str, StateKey]


def part_name(rank: int, num_ranks: int) -> str:
    """The file of a rank."""
    return f"part-{rank:05d}-of-{num_ranks:05d}.safetensors"


def stretch_name(name: str, key: StateKey, start: int) -> str:
    """What a stretch is called inside its file."""
    return f"{key}@{start}@{name}"


def has_parts(folder: Path) -> bool:
    """Whether a folder holds training state and not published shards."""
    return (folder / STATE_FOLDER).is_dir()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """A run of elements, and the file that has it."""

    start: int
    length: int
    path: Path
    tensor: str

    @property
    def end(self) -> int:
        return self.start + self.length


class PartsReader:
    """The state that all ranks of a checkpoint wrote together, whole: CheckpointError where it is not.

    Only headers are read at first. Stretches must cover every parameter exactly once.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / STATE_FOLDER
        self.shapes: dict[str, Shape] = {}
        """Of every parameter."""
        self.adam_step = 0
        self.num_ranks = 0
        self._stretches: dict[Named, list[_Stretch]] = defaultdict(list)
        self._random: dict[int, dict[str, tuple[Path, str]]] = defaultdict(dict)
        self._files = MappedFiles()
        try:
            self._read_headers()
            self._check_cover()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    @property
    def has_moments(self) -> bool:
        """Whether the optimizer has made a step."""
        return any(key is not StateKey.WEIGHT for _, key in self._stretches)

    def read(self, name: str, key: StateKey, start: int = 0, length: int | None = None) -> Tensor:
        """A stretch of a parameter, flat, on the CPU; to its end without a length."""
        whole = self._length(name, key)
        end = whole if length is None else start + length
        if not 0 <= start <= end <= whole:
            raise CheckpointError(f"{name} has {whole} elements, asked for {start} to {end}")
        values = torch.empty(end - start)
        for stretch in self._stretches[name, key]:
            low, high = max(start, stretch.start), min(end, stretch.end)
            if low < high:
                values[low - start : high - start] = self._slice(stretch, low, high)
                self._files.copied(values[low - start : high - start].nbytes)
        return values

    def random_state(self, rank: int) -> Mapping[str, Tensor]:
        """Random state of a rank, by the name of its device."""
        states = {}
        for device, (path, tensor) in self._random.get(rank, {}).items():
            try:
                states[device] = self._files.open(path).get_tensor(tensor)  # type: ignore[no-untyped-call]
            except (SafetensorError, OSError) as error:
                raise _torn(path, error) from error
        return states

    def _length(self, name: str, key: StateKey) -> int:
        if (name, key) not in self._stretches:
            raise CheckpointError(f"{self.folder} has no {key} of {name}")
        return prod(self.shapes[name])

    def _slice(self, stretch: _Stretch, low: int, high: int) -> Tensor:
        try:
            view = self._files.open(stretch.path).get_slice(stretch.tensor)  # type: ignore[no-untyped-call]
            values: Tensor = view[low - stretch.start : high - stretch.start]
        except (SafetensorError, OSError) as error:
            raise _torn(stretch.path, error) from error
        return values

    def _read_headers(self) -> None:
        files = _rank_files(self.folder)
        self.num_ranks = len(files)
        steps = {path: self._read_header(rank, path) for rank, path in enumerate(files)}
        self.adam_step = next(iter(steps.values()))
        if odd := [path.name for path, step in steps.items() if step != self.adam_step]:
            raise CheckpointError(
                f"{self.folder}: {odd[0]} is of optimizer step {steps[self.folder / odd[0]]}, "
                f"{files[0].name} of {self.adam_step}: parts of two checkpoints were mixed"
            )

    def _read_header(self, rank: int, path: Path) -> int:
        """Take in what a file holds; returns the optimizer's step."""
        try:
            opened = self._files.open(path)
            metadata = opened.metadata() or {}  # type: ignore[no-untyped-call]
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} has the format {metadata.get('format')!r}, this build reads {FORMAT!r}"
                )
            self._take_shapes(path, json.loads(metadata["shapes"]))
            for tensor in opened.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118  # not a dict
                self._take_tensor(rank, path, tensor)
            return int(metadata["adam_step"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise _torn(path, error) from error

    def _take_shapes(self, path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        for name, given in shapes.items():
            shape = tuple(int(length) for length in given)
            known = self.shapes.setdefault(name, shape)
            if known != shape:
                raise CheckpointError(f"{path}: {name} is {shape}, other parts have it as {known}")

    def _take_tensor(self, rank: int, path: Path, tensor: str) -> None:
        if tensor.startswith(RANDOM_PREFIX):
            self._random[rank][tensor.removeprefix(RANDOM_PREFIX)] = (path, tensor)
            return
        view = self._files.open(path).get_slice(tensor)  # type: ignore[no-untyped-call]
        if view.get_dtype() != "F32":
            raise CheckpointError(f"{path}: {tensor} is {view.get_dtype()}, state is F32")
        key, start, name = tensor.split("@", 2)
        stretch = _Stretch(start=int(start), length=prod(view.get_shape()), path=path, tensor=tensor)
        self._stretches[name, StateKey(key)].append(stretch)

    def _check_cover(self) -> None:
        """Every parameter whole: its weight, and both moments if any parameter has them."""
        wanted = list(StateKey) if self.has_moments else [StateKey.WEIGHT]
        strangers = {name for name, _ in self._stretches} - self.shapes.keys()
        if strangers or not self.shapes:
            raise CheckpointError(
                f"{self.folder} does not say the shape of {sorted(strangers) or 'anything'}"
            )
        for name, shape in self.shapes.items():
            for key in wanted:
                fault = _find_fault(self._stretches.get((name, key), []), prod(shape))
                if fault is not None:
                    raise CheckpointError(
                        f"{self.folder}: the parts do not hold each of the {prod(shape)} elements of {name} "
                        f"({key}) exactly once: look at element {fault}"
                    )


def _find_fault(stretches: Sequence[_Stretch], total: int) -> int | None:
    """The first element that is missing or there twice."""
    at = 0
    for stretch in sorted(stretches, key=lambda each: each.start):
        if stretch.length and stretch.start != at:
            return min(at, stretch.start)
        at += stretch.length
    return None if at == total else min(at, total)


def _rank_files(folder: Path) -> list[Path]:
    """The files of all ranks, in order; an error names those that are missing."""
    found = {
        path: match for path in sorted(folder.glob("part-*")) if (match := PART_FILE.fullmatch(path.name))
    }
    sizes = {int(match.group(2)) for match in found.values()}
    if len(sizes) != 1:
        said = f"parts of {' and of '.join(map(str, sorted(sizes)))} ranks" if sizes else "no part"
        raise CheckpointError(f"{folder} holds {said}; a checkpoint has one part of every rank")
    num_ranks = sizes.pop()
    wanted = [folder / part_name(rank, num_ranks) for rank in range(num_ranks)]
    if missing := [path.name for path in wanted if path not in found]:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing[:4])} ({len(missing)} of {num_ranks} parts)"
        )
    return wanted


def _torn(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is truncated or corrupt ({error!r}); take an older checkpoint")
