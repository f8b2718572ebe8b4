"""Files of versions in an S3-compatible store, through obstore (extra `s3`): upload, download with resume.

What a store does not answer is tried again until a deadline; then it is an UnavailableError.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from forklight_core.errors import ConfigError, NotFoundError, UnavailableError
from forklight_core.retry import retry_sync

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART_BYTES = 16 << 20
NUM_PARALLEL = 8
DEADLINE_S = 120.0
PARTIAL = ".part"
Result = TypeVar("Result")


def is_url(place: str) -> bool:
    """Whether weights are named by a URL instead of a path."""
    return "://" in place


def open_objects(url: str, *, deadline_s: float = DEADLINE_S) -> ObjectFolder:
    """`s3://bucket/prefix`; endpoint and credentials come from the AWS_* variables obstore reads."""
    try:
        from obstore.store import LocalStore, from_url
    except ImportError:
        raise ConfigError(f"weights in {url!r} need obstore: pip install 'forklight-core[s3]'") from None
    scheme, _, rest = url.partition("://")
    store = LocalStore(rest, mkdir=True) if scheme == "file" else from_url(url)
    return ObjectFolder(store, url, deadline_s=deadline_s)


class ObjectFolder:
    """Everything under one URL. May be used by several threads."""

    def __init__(self, store: ObjectStore, url: str, *, deadline_s: float) -> None:
        self._store, self._url, self._deadline_s = store, url.rstrip("/"), deadline_s

    def upload(self, name: str, source: Path | bytes) -> None:
        """Write an object, a large file in parts; it appears whole or not at all."""
        import obstore

        self._try(
            f"writing {name}",
            lambda: obstore.put(
                self._store, name, source, chunk_size=PART_BYTES, max_concurrency=NUM_PARALLEL
            ),
        )

    def read(self, name: str) -> bytes:
        """A small object; NotFoundError where there is none."""
        import obstore

        return self._try(f"reading {name}", lambda: bytes(obstore.get(self._store, name).bytes()))

    def has(self, name: str) -> bool:
        """Whether there is such an object."""
        import obstore

        try:
            self._try(f"looking for {name}", lambda: obstore.head(self._store, name))
        except NotFoundError:
            return False
        return True

    def fetch(self, name: str, target: Path) -> None:
        """Download a file. What an earlier attempt got is kept; the file takes its name once it is whole."""
        import obstore

        size_bytes = self._try(f"looking for {name}", lambda: int(obstore.head(self._store, name)["size"]))
        partial = target.with_name(target.name + PARTIAL)
        with partial.open("ab") as file, ThreadPoolExecutor(NUM_PARALLEL) as pool:
            start = min(file.tell(), size_bytes) // PART_BYTES * PART_BYTES
            file.truncate(start)
            while start < size_bytes:
                window = range(start, min(start + NUM_PARALLEL * PART_BYTES, size_bytes), PART_BYTES)
                for data in pool.map(lambda place: self._range(name, place, size_bytes), window):
                    file.write(data)
                start = min(window.stop, size_bytes)
        partial.replace(target)

    def list_folders(self) -> list[str]:
        """Names right below that have objects under them."""
        import obstore

        found = self._try("listing", lambda: obstore.list_with_delimiter(self._store))
        return sorted(str(prefix).rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def list_files(self, folder: str | None = None) -> list[str]:
        """Names of all objects, or of those under a folder."""
        import obstore

        return self._try(
            f"listing {folder or 'all'}",
            lambda: [str(each["path"]) for page in obstore.list(self._store, folder) for each in page],
        )

    def remove(self, folder: str) -> None:
        """Forget a folder."""
        import obstore

        names = self.list_files(folder)
        if names:
            self._try(f"removing {folder}", lambda: obstore.delete(self._store, names))

    def _range(self, name: str, start: int, size_bytes: int) -> bytes:
        import obstore

        end = min(start + PART_BYTES, size_bytes)
        return self._try(
            f"reading {name} from byte {start}",
            lambda: bytes(obstore.get_range(self._store, name, start=start, end=end)),
        )

    def _try(self, what: str, call: Callable[[], Result]) -> Result:
        from obstore.exceptions import BaseError

        def attempt() -> Result:
            try:
                return call()
            except FileNotFoundError as error:
                raise NotFoundError(f"{self._url} has no such object while {what}") from error
            except (BaseError, ConnectionError, TimeoutError) as error:
                raise UnavailableError(f"{self._url} refused {what}: {error}") from error

        return retry_sync(attempt, deadline_s=self._deadline_s)
