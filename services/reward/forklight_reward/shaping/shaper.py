"""The shaping of rewards: which state a group is shaped by, and where states are kept.

A group is shaped by the state of the policy version that it was opened at. That state is a file,
FOLDER/v00000012.json, made once, by whoever needs it first, from all it has observed until then; it never
changes. So all samples of a group meet the same state, after a restart and in every front of the run, as long
as the fronts share the folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from forklight_core.errors import BusyError, DataLossError, NotFoundError
from forklight_reward.shaping.source import Scale, SourceState, state_from_json, state_to_json

FOLDER = "shaping"
MOST_FILES = 256
_NAME = re.compile(r"v(\d{8,})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenShaping:
    """The states of all sources for the groups of one policy version."""

    name: str
    """Version and content, for verdicts."""
    sources: Mapping[str, SourceState]
    scales: Mapping[str, Scale]

    def shape(self, source: str, reward: float) -> tuple[float, float]:
        """What clipping and normalising add to a reward of a source; nothing while little is known of it."""
        scale = self.scales.get(source)
        return (0.0, 0.0) if scale is None else scale.shape(reward)

    def shape_of(self, source: str) -> Callable[[float], tuple[float, float]]:
        """`shape` of one source."""
        return partial(self.shape, source)


class Shaper:
    """One a front. Observes what it scores; others learn of it when it makes the next file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frozen: dict[int, FrozenShaping] = {}
        self._running: dict[str, SourceState] = {}
        self._lock = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        if newest := max(self._versions(), default=None):
            self._running = dict(self._read(newest).sources)

    async def state_of(self, opened_version: int) -> FrozenShaping:
        """The state for groups of a policy version."""
        if (known := self._frozen.get(opened_version)) is not None:
            return known
        async with self._lock:
            if opened_version not in self._frozen:
                self._frozen[opened_version] = await asyncio.to_thread(self._open, opened_version)
                while len(self._frozen) > MOST_FILES:
                    del self._frozen[min(self._frozen)]
        return self._frozen[opened_version]

    def observe(self, source: str, reward: float) -> None:
        """One reward of a source, before shaping."""
        self._running[source] = self._running.get(source, SourceState()).observe([reward])

    def _open(self, version: int) -> FrozenShaping:
        place = self._place(version)
        if not place.exists():
            self._create(place)
            self._forget()
        frozen = self._read(version)
        # Whoever made it, all go on from it: fronts do not drift apart.
        if version == max(self._versions()):
            self._running = self._running | dict(frozen.sources)
        return frozen

    def _create(self, place: Path) -> None:
        """Whole or not at all, and only if nobody was first."""
        states = {source: state_to_json(state) for source, state in sorted(self._running.items())}
        name = ""
        try:
            handle, name = tempfile.mkstemp(dir=place.parent, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"sources": states}, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            os.link(name, place)
        except FileExistsError:
            pass
        except OSError as error:
            raise BusyError(
                f"the state of the shaping cannot be kept in {place}: {error.strerror}. Groups of a new "
                "version wait for it; free space there, or set reward.shaping = false"
            ) from error
        finally:
            if name:
                Path(name).unlink(missing_ok=True)

    def _read(self, version: int) -> FrozenShaping:
        return _read_file(self._place(version))

    def _forget(self) -> None:
        for version in sorted(self._versions())[:-MOST_FILES]:
            self._place(version).unlink(missing_ok=True)

    def _versions(self) -> list[int]:
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [int(match[1]) for match in found if match]

    def _place(self, version: int) -> Path:
        return self._folder / name_of(version)


def name_of(version: int) -> str:
    """The file of a policy version."""
    return f"v{version:08d}.json"


def read_shaping(run_folder: Path, version: int) -> FrozenShaping:
    """The state of a run that groups of a policy version were shaped by."""
    place = run_folder / FOLDER / name_of(version)
    if not place.exists():
        raise NotFoundError(f"{place} is gone: the newest {MOST_FILES} states of the shaping are kept")
    return _read_file(place)


def _read_file(place: Path) -> FrozenShaping:
    data = place.read_bytes()
    try:
        found = json.loads(data)
        given = found["sources"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataLossError(f"{place} holds no state of shaping: {error!r}") from None
    sources = {source: state_from_json(state, str(place)) for source, state in given}
    return FrozenShaping(
        name=f"shaping/1 {place.stem}-{hashlib.sha256(data).hexdigest()[:12]}",
        sources=sources,
        scales={source: scale for source, state in sources.items() if (scale := state.scale())},
    )
