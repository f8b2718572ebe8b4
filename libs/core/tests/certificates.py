"""An authority of a test and what it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from forklight_core.rpc.identity import TlsFiles

DAY = dt.timedelta(days=1)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def sign(self, folder: Path, *, days: int = 7, host: str = "localhost") -> TlsFiles:
        """A pair, and this authority, as the three files of a process."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host)]
        if host == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = _build(host, key, self.certificate.subject, days=days).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        folder.mkdir(parents=True, exist_ok=True)
        signed = certificate.sign(self.key, hashes.SHA256())
        contents = {"tls.crt": _pem(signed), "tls.key": _pem_key(key), "ca.crt": _pem(self.certificate)}
        for name, data in contents.items():
            fresh = folder / f"{name}.new"
            fresh.write_bytes(data)
            fresh.replace(folder / name)
        return TlsFiles(certificate=folder / "tls.crt", key=folder / "tls.key", authority=folder / "ca.crt")


def make_authority(name: str = "tests") -> Authority:
    """A new one."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _build(name, key, _named(name), days=30)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return Authority(key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()))


def _build(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, *, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + days * DAY)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
