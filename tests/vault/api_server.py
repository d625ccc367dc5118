"""A token API on a real listener, with an issuer on another: what the tests of the API talk to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import jwt
from aiohttp import ClientSession, web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from gateway.access.identity import Identity
from gateway.access.issuers import Issuer, Issuers
from gateway.access.keys import KeyRing
from gateway.access.policy import Policy, PolicySet
from gateway.errors import RecordUnavailable
from gateway.net.client import OutboundClient
from gateway.store.changes import ChangeFeed
from gateway.store.engine import Store
from gateway.vault.api import create_app
from gateway.vault.listener import ApiRunner
from gateway.vault.service import Vault
from tests.vault.conftest import LOOPBACK, House

PROJECT = "acme"
POLICIES = (
    Policy(id="sales", effect="allow", connections=frozenset({"contacts"}), roles=frozenset({"sales"})),
    Policy(id="batch", effect="allow", connections=frozenset({"contacts"}), clients=frozenset({"batch"})),
)


@dataclass
class Api:
    """A running token API: where it is, a management key, an agent key, and what it recorded."""

    url: str
    management_key: str = field(repr=False)
    agent_key: str = field(repr=False)
    issuer: str
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    session: ClientSession
    house: House
    recorded: list[tuple[str, dict[str, Any]]]
    identity: Identity = field(repr=False)
    keyring: KeyRing = field(repr=False)
    policies: PolicySet = field(repr=False)
    is_record_full: bool = False

    def note(self, event: str, /, **fields: object) -> None:
        """The API's record."""
        if self.is_record_full:
            raise RecordUnavailable
        self.recorded.append((event, fields))

    def access_token(self, **claims: object) -> str:
        """An access token of alice of the tenant acme, in sales, with the scope."""
        now = int(self.house.clock.now)
        usual = {
            "iss": self.issuer,
            "aud": "gateway",
            "sub": "alice",
            "azp": "desktop",
            "iat": now,
            "exp": now + 600,
            "scope": "openid outbound.token.fetch",
            "roles": ["sales"],
            "tenants": {"acme": {}},
        }
        content = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(content, self.signing_key, algorithm="ES256", headers={"kid": "k1", "typ": "at+jwt"})

    async def call(
        self, method: str, path: str, body: object = None, *, credential: str | None = None, data: bytes | None = None
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Send one request and return status, JSON body and header fields. Redirects are not followed."""
        headers = {"Authorization": f"Bearer {PROJECT}:{credential or self.management_key}"}
        kwargs: dict[str, Any] = {"data": BytesIO(data)} if data is not None else {"json": body}
        async with self.session.request(
            method, self.url + path, headers=headers, allow_redirects=False, **kwargs
        ) as response:
            content = await response.json() if method != "HEAD" else {}
            return response.status, content, response.headers


@asynccontextmanager
async def serve(house: House, vault: Vault) -> AsyncIterator[Api]:
    """Run the token API of *vault*, and an issuer that its callers' tokens come from."""
    signing_key = ec.generate_private_key(ec.SECP256R1())
    jwk = ECAlgorithm.to_jwk(signing_key.public_key(), as_dict=True) | {"kid": "k1", "alg": "ES256", "use": "sig"}

    async def keys(_: web.Request) -> web.Response:
        return web.json_response({"keys": [jwk]})

    issuer_app = web.Application()
    issuer_app.router.add_get("/keys", keys)
    served: list[Api] = []

    def note(event: str, /, **fields: object) -> None:
        served[0].note(event, **fields)

    store = await Store.open(house.database_url)
    feed = ChangeFeed(store, clock=house.clock, monotonic=house.clock)
    keyring = KeyRing(store, feed, clock=house.clock, random_bytes=os.urandom)
    async with OutboundClient(LOOPBACK) as client, running(web.AppRunner(issuer_app)) as issuer_url:
        issuer = Issuer(issuer=issuer_url, audience=("gateway",), jwks_uri=f"{issuer_url}/keys", required_scope=None)
        issuers = Issuers([issuer], client, clock=house.clock, monotonic=house.clock)
        identity = Identity(issuers, keyring, clock=house.clock, monotonic=house.clock, accepts_management=True)
        app = create_app(
            vault,
            identity,
            keyring,
            PolicySet(POLICIES),
            project=PROJECT,
            record=note,
            random_bytes=os.urandom,
        )
        async with running(ApiRunner(app, access_log=None, shutdown_timeout=0.1)) as url, ClientSession() as session:
            api = Api(
                url=url,
                management_key=(await keyring.create_management("tests")).secret,
                agent_key=(await keyring.create_agent("bot", user="alice")).secret,
                issuer=issuer_url,
                signing_key=signing_key,
                session=session,
                house=house,
                recorded=[],
                identity=identity,
                keyring=keyring,
                policies=PolicySet(POLICIES),
            )
            served.append(api)
            yield api
    await store.close()


@asynccontextmanager
async def running(runner: web.AppRunner) -> AsyncIterator[str]:
    """Run an application on a free port of the loopback and yield its URL."""
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
