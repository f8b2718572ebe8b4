"""Blobs in an S3-compatible store, through obstore (extra `s3`). Same port as the local folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forklight_core.blobs.port import BlobRef, BlobStats, blob_ref, check_blob_id, verify_blob
from forklight_core.errors import ConfigError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from obstore.store import ObjectStore


def open_s3_store(url: str) -> ObjectBlobStore:
    """`s3://bucket/prefix`; endpoint and credentials come from the AWS_* variables obstore reads."""
    try:
        from obstore.store import from_url
    except ImportError:
        raise ConfigError(f"blob store {url!r} needs obstore: pip install 'forklight-core[s3]'") from None
    return ObjectBlobStore(from_url(url), url)


class ObjectBlobStore:
    """Any obstore store: S3, its look-alikes, or obstore's memory store in tests."""

    def __init__(self, store: ObjectStore, where: str) -> None:
        self._store = store
        self._where = where

    def put(self, data: bytes) -> BlobRef:
        import obstore
        from obstore.exceptions import BaseError

        reference = blob_ref(data)
        try:
            obstore.put(self._store, self._path(reference.id), data)
        except BaseError as error:
            raise self._refusal("write", error) from error
        return reference

    def get(self, blob_id: str) -> bytes:
        import obstore
        from obstore.exceptions import BaseError

        try:
            data = bytes(obstore.get(self._store, self._path(blob_id)).bytes())
        except FileNotFoundError:
            raise NotFoundError(f"blob {blob_id} is not in {self._where}") from None
        except BaseError as error:
            raise self._refusal("read", error) from error
        return verify_blob(blob_id, data, self._where)

    def exists(self, blob_id: str) -> bool:
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.head(self._store, self._path(blob_id))
        except FileNotFoundError:
            return False
        except BaseError as error:
            raise self._refusal("look", error) from error
        return True

    def delete(self, blob_id: str) -> None:
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.delete(self._store, self._path(blob_id))
        except FileNotFoundError:
            return
        except BaseError as error:
            raise self._refusal("delete", error) from error

    def _refusal(self, what: str, error: Exception) -> UnavailableError:
        """In a line; the library's own text goes on for pages."""
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        said = " ".join(str(error).partition("Debug source")[0].split())[:400]
        is_right = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        todo = "give these credentials (AWS_*) the right to it" if is_right else "is its address right?"
        return UnavailableError(
            f"blob store {self._where} refused a {what}: {said}; {todo}; it is tried again"
        )

    def stats(self) -> BlobStats:
        import obstore

        sizes = [entry["size"] for page in obstore.list(self._store) for entry in page]
        return BlobStats(num_blobs=len(sizes), num_bytes=sum(sizes))

    def _path(self, blob_id: str) -> str:
        digest = check_blob_id(blob_id)
        return f"{digest[:2]}/{digest[2:]}"
