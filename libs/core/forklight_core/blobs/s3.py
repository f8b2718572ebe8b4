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
            raise UnavailableError(f"blob store {self._where} refused a write: {error}") from error
        return reference

    def get(self, blob_id: str) -> bytes:
        import obstore
        from obstore.exceptions import BaseError

        try:
            data = bytes(obstore.get(self._store, self._path(blob_id)).bytes())
        except FileNotFoundError:
            raise NotFoundError(f"blob {blob_id} is not in {self._where}") from None
        except BaseError as error:
            raise UnavailableError(f"blob store {self._where} refused a read: {error}") from error
        return verify_blob(blob_id, data, self._where)

    def exists(self, blob_id: str) -> bool:
        import obstore

        try:
            obstore.head(self._store, self._path(blob_id))
        except FileNotFoundError:
            return False
        return True

    def delete(self, blob_id: str) -> None:
        import obstore

        try:
            obstore.delete(self._store, self._path(blob_id))
        except FileNotFoundError:
            return

    def stats(self) -> BlobStats:
        import obstore

        sizes = [entry["size"] for page in obstore.list(self._store) for entry in page]
        return BlobStats(num_blobs=len(sizes), num_bytes=sum(sizes))

    def _path(self, blob_id: str) -> str:
        digest = check_blob_id(blob_id)
        return f"{digest[:2]}/{digest[2:]}"
