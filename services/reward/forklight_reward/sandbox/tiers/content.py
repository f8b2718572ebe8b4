"""Images that hold what a job must see read-only: the host's folders go into a layer, never into a mount."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.tiers.engine import engine_errors

if TYPE_CHECKING:
    from docker import APIClient

REPOSITORY = "forklight-sandbox-content"
MAX_CONTENT_BYTES = 256 * 2**20
_building = threading.Lock()


def image_with(client: APIClient, image: str, mounts: Mapping[str, str]) -> str:
    """The image itself, or one made of it that has the folders at their places."""
    if not mounts:
        return image
    with _building:
        return _image_with(client, image, tuple(sorted(mounts.items())))


@lru_cache(maxsize=64)
def _image_with(client: APIClient, image: str, mounts: tuple[tuple[str, str], ...]) -> str:
    from docker.errors import ImageNotFound

    layer = pack(mounts)
    tag = f"{REPOSITORY}:{hashlib.sha256(image.encode() + layer).hexdigest()[:40]}"
    with engine_errors("make an image with a job's folders"):
        try:
            return str(client.inspect_image(tag)["Id"])
        except ImageNotFound:
            for line in client.build(fileobj=io.BytesIO(context(image, layer)), custom_context=True, tag=tag,
                                     network_mode="none", rm=True, forcerm=True, decode=True):  # fmt: skip
                if "error" in line:
                    raise UnavailableError(f"sandbox: an image could not be built: {line['error']}") from None
        return str(client.inspect_image(tag)["Id"])


def pack(mounts: tuple[tuple[str, str], ...]) -> bytes:
    """The folders as one archive that is the same for the same bytes."""
    packed = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for place, folder in mounts:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_symlink() or not path.is_file() or "__pycache__" in path.parts:
                    continue
                data = path.read_bytes()
                total += len(data)
                if total > MAX_CONTENT_BYTES:
                    raise UnavailableError(
                        f"sandbox: the folders of a job are larger than {MAX_CONTENT_BYTES} bytes; "
                        "put them into the sandbox's image"
                    )
                member = tarfile.TarInfo(f"{place.strip('/')}/{path.relative_to(folder)}")
                member.size, member.mode = len(data), 0o755 if path.stat().st_mode & 0o100 else 0o644
                archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def context(image: str, layer: bytes) -> bytes:
    """What the engine builds from: no step runs anything."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in (("Dockerfile", f"FROM {image}\nADD layer.tar /\n".encode()), ("layer.tar", layer)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()
