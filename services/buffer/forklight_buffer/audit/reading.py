"""What an audit reads: the ledger without writing to it, Redis when there is one, commit records of
checkpoints.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from forklight_buffer.adapters import replies
from forklight_buffer.keys import BufferKeys
from forklight_buffer.live import LiveGroup
from forklight_buffer.records import Commit
from forklight_core.errors import DataLossError, NotFoundError, UnavailableError


class LedgerFile:
    """ledger.sqlite, read only; a running buffer may have it open."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise NotFoundError(
                f"{path} does not exist: name the folder of a run that was started at least once"
            )
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("BEGIN")  # one snapshot for all queries

    def rows(self, sql: str, values: Sequence[str | int] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._connection.execute(sql, values).fetchall()

    def number(self, sql: str) -> int:
        """The one number of a query."""
        return int(self.rows(sql)[0][0] or 0)

    def close(self) -> None:
        """Give the file free."""
        self._connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecords:
    """What a checkpoint says it has learned since the one before."""

    name: str
    lineage: str
    step: int
    commits: tuple[Commit, ...]


def read_checkpoints(run_folder: Path) -> list[CheckpointRecords]:
    """Every checkpoint folder that has a commit record, oldest first."""
    found = []
    for path in sorted(run_folder.glob("checkpoints/step-*/commit.json")):
        try:
            content = json.loads(path.read_text())
            commits = tuple(_commit(record) for record in content.get("records", []))
            lineage, step = str(content["lineage"]), int(content["step"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataLossError(
                f"{path} is no commit record ({error!r}): the checkpoint is torn, remove its folder"
            ) from error
        found.append(CheckpointRecords(name=path.parent.name, lineage=lineage, step=step, commits=commits))
    return found


def _commit(record: Mapping[str, object]) -> Commit:
    samples = record["sample_ids"]
    if not isinstance(samples, list):
        raise TypeError("sample_ids is no list")
    return Commit(
        lineage=str(record["lineage"]),
        step=int(str(record["step"])),
        batch_id=str(record["batch_id"]),
        sample_ids=tuple(map(str, samples)),
    )


def read_live_groups(redis_url: str, keys: BufferKeys) -> dict[str, LiveGroup]:
    """Every group Redis holds."""
    from redis import Redis, RedisError

    redis = Redis.from_url(redis_url, protocol=2, socket_timeout=30.0)
    try:
        found = {}
        for raw in cast("list[bytes]", redis.zrange(keys.live, 0, -1)):
            group_id = raw.decode()
            fields = cast("dict[bytes, bytes]", redis.hgetall(keys.group_prefix + group_id))
            if fields:
                named = {name.decode(): value for name, value in fields.items()}
                found[group_id] = replies.live_group(group_id, named)
        return found
    except RedisError as error:
        raise UnavailableError(
            f"the run's Redis does not answer while its groups are read ({error}): if the run is just "
            "ending, ask again when it has ended; else bring Redis back"
        ) from error
    finally:
        redis.close()
