"""An issuer on 127.0.0.1 that signs what it is told to, and serves its keys as well or as badly as a test wants."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.models import Egress

LOOPBACK = Egress(allow_private=(ip_network("127.0.0.0/8"),), allow_http=True)
AUDIENCE = "https://gateway.example.com"
NOW = 1_800_000_000.0


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The RSA key called *name*, made once a run."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str, curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    """The EC key called *name*."""
    curves: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
    return ec.generate_private_key(curves[curve])


@cache
def ed_key(name: str) -> ed25519.Ed25519PrivateKey:
    """The Ed25519 key called *name*."""
    return ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """The public JWK of the private *key*."""
    algorithm = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    name = next(value for kind, value in algorithm.items() if isinstance(key, kind))
    found = dict(jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True))
    found.pop("key_ops", None)
    return found | ({} if kid is None else {"kid": kid}) | members


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(header: object, payload: object, *, key: Any, alg: str = "RS256") -> str:
    """A compact JWS over *header* and *payload*; bytes and str are taken as they are, anything else becomes JSON."""
    first, second = (
        part if isinstance(part, bytes) else (part.encode() if isinstance(part, str) else json.dumps(part).encode())
        for part in (header, payload)
    )
    signed = f"{b64(first)}.{b64(second)}"
    return f"{signed}.{b64(jwt.get_algorithm_by_name(alg).sign(signed.encode(), key))}"


@dataclass
class Idp:
    """The issuer. *keys* is served as the set; *answer* replaces the whole answer of the set's address."""

    keys: list[Any] = field(default_factory=list)
    answer: Callable[[], web.StreamResponse] | None = None
    metadata: dict[str, Any] | None = None
    metadata_path: str = "/.well-known/openid-configuration"
    path: str = ""
    hits: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    @property
    def fetches(self) -> int:
        """How often the key set was asked for."""
        return self.hits.count("/keys")

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims that are in order, with *changes*; a change to `...` leaves the claim out."""
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "exp": NOW + 600,
            "iat": NOW - 5,
            "scope": "outbound.token.fetch",
        }
        claims |= changes
        return {name: value for name, value in claims.items() if value is not ...}

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        self.hits.append(request.path)
        if request.path == "/keys":
            if self.gate is not None:
                await self.gate.wait()
            return self.answer() if self.answer is not None else web.json_response({"keys": self.keys})
        if request.path == self.metadata_path:
            metadata = {"issuer": self.url, "jwks_uri": f"http://127.0.0.1:{self.port}/keys"}
            return web.json_response(metadata if self.metadata is None else self.metadata)
        return web.Response(status=404, text="<html>not here</html>")


@asynccontextmanager
async def running(idp: Idp) -> AsyncIterator[Idp]:
    """Serve *idp* on a free port of 127.0.0.1."""
    server = web.Server(idp.serve, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    idp.port = runner.addresses[0][1]
    try:
        yield idp
    finally:
        await runner.cleanup()
