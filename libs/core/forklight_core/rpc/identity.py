"""The certificates of this process: read from three files, tried out, read again when the files change.

    FORKLIGHT_TLS_CERT, FORKLIGHT_TLS_KEY, FORKLIGHT_TLS_CA: all three, or none (plaintext)

Whoever reads them lets a client and a server that both have them shake hands in memory first: so a missing
key, a pair that does not match, an expired certificate or a strange authority is found here, told by file.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from os import environ
from pathlib import Path

from forklight_core.errors import ConfigError
from forklight_core.settings import TlsSettings, load_settings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_MOST_ROUNDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What the files hold, PEM."""

    certificate: bytes
    key: bytes
    authority: bytes
    valid_until: float
    """Unix seconds; of our own certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where they are."""

    certificate: Path
    key: Path
    authority: Path
    name: str = ""
    """A name that the certificate of every door carries; empty: the host that is called."""

    def stamp(self) -> tuple[object, ...]:
        """Changes with the files; links (as of mounted secrets) are followed."""
        found = []
        for path in (self.certificate, self.key, self.authority):
            try:
                status = path.stat()
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)

    def read(self) -> Certificates:
        """All three, tried out; ConfigError says which file is wrong, why, and what to do."""
        certificate = _read(self.certificate, "FORKLIGHT_TLS_CERT")
        key = _read(self.key, "FORKLIGHT_TLS_KEY")
        authority = _read(self.authority, "FORKLIGHT_TLS_CA")
        until = self._try_out()
        return Certificates(certificate=certificate, key=key, authority=authority, valid_until=until)

    def _try_out(self) -> float:
        server = self._context(ssl.Purpose.CLIENT_AUTH)
        client = self._context(ssl.Purpose.SERVER_AUTH)
        try:
            shown = _shake_hands(server, client)
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(
                f"{self.certificate} (FORKLIGHT_TLS_CERT) does not hold against {self.authority} "
                f"(FORKLIGHT_TLS_CA): {error.verify_message}; have it issued anew by that authority"
            ) from None
        except ssl.SSLError as error:
            raise ConfigError(f"{self.certificate} (FORKLIGHT_TLS_CERT) is of no use: {error}") from None
        return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))

    def _context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        server_side = purpose is ssl.Purpose.CLIENT_AUTH
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.authority)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"{self.authority} (FORKLIGHT_TLS_CA) holds no certificate: {error}") from None
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            if "KEY_VALUES_MISMATCH" in str(error):
                why = "the key belongs to another certificate; mount both from one secret"
            else:
                why = f"not a PEM certificate with its unencrypted key: {error}"
            raise ConfigError(
                f"{self.certificate} (FORKLIGHT_TLS_CERT) and {self.key} (FORKLIGHT_TLS_KEY): {why}"
            ) from None
        return context


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{variable} names {path}, which cannot be read: {error.strerror}; mount the file, or unset all "
            f"three variables for plaintext"
        ) from None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, object]:
    """In memory; returns what the server showed."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_side=False),
    ]
    open_ends = list(reversed(ends))
    for _ in range(_MOST_ROUNDS):
        for end in list(open_ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.remove(end)
        if not open_ends:
            return dict(ends[1].getpeercert() or {})
    raise ssl.SSLError("the handshake does not end")


class Identity:
    """The newest certificates that hold. Thread-safe; looks at the files at most once a second."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._stamp = files.stamp()
        self._looked_at = time.monotonic()
        self._now = files.read()

    def certificates(self) -> Certificates:
        """As they are now; files that do not hold (half of them are new) leave the old ones in use."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at < LOOK_EVERY_S:
                return self._now
            self._looked_at = now
            stamp = self.files.stamp()
            if stamp == self._stamp:
                return self._now
            try:
                self._now = self.files.read()
            except ConfigError as error:
                log.error("new certificates are not used", extra={"reason": str(error)})
            else:
                self._stamp = stamp
                log.info("certificates read again", extra={"valid_until": self._now.valid_until})
            return self._now


_chosen: ContextVar[TlsFiles | None] = ContextVar("tls_files", default=None)
_known: dict[TlsFiles, Identity] = {}


def files_of(settings: TlsSettings) -> TlsFiles | None:
    """All three files, or None for none; ConfigError names what is missing."""
    given = {
        "FORKLIGHT_TLS_CERT": settings.tls_cert,
        "FORKLIGHT_TLS_KEY": settings.tls_key,
        "FORKLIGHT_TLS_CA": settings.tls_ca,
    }
    missing = [name for name, value in given.items() if not value]
    if len(missing) == len(given):
        return None
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set: certificates need all of {', '.join(given)}, plaintext none"
        )
    return TlsFiles(
        certificate=Path(settings.tls_cert),
        key=Path(settings.tls_key),
        authority=Path(settings.tls_ca),
        name=settings.tls_name,
    )


def find_identity(variables: Mapping[str, str] = environ) -> Identity | None:
    """Who this process is to others; None: it speaks plaintext. ConfigError for files that do not hold."""
    files = _chosen.get() or files_of(load_settings(TlsSettings, variables))
    if files is None:
        return None
    if files not in _known:
        _known[files] = Identity(files)
    return _known[files]


@contextmanager
def as_holder_of(files: TlsFiles | None) -> Iterator[None]:
    """Doors and channels opened in the block use these files; None: what the environment says."""
    token = _chosen.set(files)
    try:
        yield
    finally:
        _chosen.reset(token)
