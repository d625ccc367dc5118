"""
The proxies that the gateway is measured beside, each a module that does the gateway's work with a known proxy's means.

1. The work: verify the caller's RS256 JWT (signature, issuer, audience, expiry), call the upstream over kept
   connections with the upstream's token in place of the JWT, and write a line a request to a file.
2. `/api` is stripped: callers ask for `/api/people`, the upstream sees `/people`.
3. One worker on core 0, no compression, bodies passed on as they come where the proxy can, and verified callers
   remembered where the proxy can: `CACHED_CALLERS` of them.
4. A peer that is not installed says so (`missing`) and how it is got; nothing is fetched unless asked (`install`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench.contestants import Issuer, Proxy, Upstream

CACHED_CALLERS = 20_000  # twice the callers of the benchmark's largest load
UPSTREAM_NAME = "localhost"  # what the certificates are made out to, beside 127.0.0.1


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A server's certificate and key, and the authority that signed it, as PEM files."""

    cert: Path
    key: Path
    ca: Path


def make_tls_files(directory: Path) -> TlsFiles:
    """Return a certificate for `localhost` and 127.0.0.1, its key and its authority, written to *directory*."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the benchmark")])
    names = x509.SubjectAlternativeName([x509.DNSName(UPSTREAM_NAME), x509.IPAddress(IPv4Address("127.0.0.1"))])
    now = datetime.now(UTC)

    def signed(subject: x509.Name, holder: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(authority, subject, holder.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        certificate = builder.add_extension(extension, critical=True).sign(authority_key, SHA256())
        return certificate.public_bytes(Encoding.PEM)

    files = TlsFiles(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, UPSTREAM_NAME)])
    files.ca.write_bytes(signed(authority, authority_key, x509.BasicConstraints(ca=True, path_length=0)))
    files.cert.write_bytes(signed(subject, key, names))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


class Peer(Protocol):
    """What each module of a peer offers."""

    NAME: str

    def missing(self) -> str | None:
        """Return what is not installed and how it is got; None when the peer can run."""

    def install(self) -> None:
        """Fetch what is missing; raises `OSError` or `subprocess.SubprocessError` if it fails or takes too long."""

    def running(
        self, upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None
    ) -> AbstractContextManager[Proxy]:
        """Run the peer before *upstream*, below *directory*; with *tls* it listens and calls with TLS."""
