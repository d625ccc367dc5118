"""
The gateway's peers, each a real process before a real upstream. One that is not installed is skipped by its name.

CI installs none of them: `python -m bench.peers` fetches all that are missing.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.contestants import AUDIENCE, ISSUER, USER, Issuer, Proxy, Upstream
from bench.peers import Peer, TlsFiles, make_tls_files
from bench.peers.lineup import PEERS
from tests import world

TOKEN = "the-injected-token"
WAIT_SECONDS = 30.0  # a bound on waiting, not a claim: a record is there within two seconds
KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


def credential(*, key: rsa.RSAPrivateKey = KEY, **changed: Any) -> str:
    """A JWT of the issuer's for the caller, with *changed* claims; None leaves a claim out."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": USER, "iat": now, "exp": now + 3600, **changed}
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm="RS256", headers={"kid": "bench"})


def with_broken_signature(token: str) -> str:
    """The same JWT, one character of its signature changed."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def signed_by_the_public_key() -> str:
    """The oldest trick: HS256, and the public key for its secret."""
    secret = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, claims, _ = credential().split(".")
    head = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT","kid":"bench"}').decode()
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(f"{head}.{claims}".encode(), secret)
    return f"{head}.{claims}.{jwt.utils.base64url_encode(mac).decode()}"


def unsigned() -> str:
    """A JWT that says it needs no signature."""
    _, claims, _ = credential().split(".")
    head = jwt.utils.base64url_encode(b'{"alg":"none","kid":"bench"}').decode()
    return f"{head}.{claims}."


REFUSED = {
    "no credential": None,
    "no JWT": "nonsense",
    "a broken signature": with_broken_signature(credential()),
    "another key": credential(key=OTHER_KEY),
    "no signature asked for": unsigned(),
    "the public key as a secret": signed_by_the_public_key(),
    "another issuer": credential(iss="https://elsewhere.example"),
    "another audience": credential(aud="https://elsewhere.example"),
    "expired": credential(exp=int(time.time()) - 3600),
}


@pytest.fixture(params=PEERS, ids=lambda peer: peer.NAME)
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each peer that is installed."""
    chosen: Peer = request.param
    if reason := chosen.missing():
        pytest.skip(f"{chosen.NAME}: not installed: {reason}")
    return chosen


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    """The issuer of `KEY`."""
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
    jwks_file = tmp_path / "jwks.json"
    jwks_file.write_text(json.dumps({"keys": [{**jwk, "kid": "bench", "alg": "RS256", "use": "sig"}]}))
    return Issuer(jwks_file, credential(), KEY, int(time.time()))


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> TlsFiles | None:
    """The certificate of both sides, or None."""
    return make_tls_files(tmp_path) if request.param else None


@pytest.fixture
async def upstream(tls: TlsFiles | None) -> AsyncIterator[world.Upstream]:
    """An upstream that keeps what it received."""
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.cert, tls.key)
    server = await world.Upstream().start(tls=context)
    yield server
    await server.stop()


@pytest.fixture
def proxy(
    peer: Peer, issuer: Issuer, upstream: world.Upstream, tls: TlsFiles | None, tmp_path: Path
) -> Iterator[Proxy]:
    """The peer, running before the upstream."""
    with peer.running(Upstream(upstream.port, TOKEN), issuer, directory=tmp_path, tls=tls) as running:
        yield running


async def get(proxy: Proxy, path: str, *, bearer: str | None, tls: TlsFiles | None, body: bytes | None = None) -> int:
    """The status with which *proxy* answers; the answer is read to its end."""
    fields = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    context = ssl.create_default_context(cafile=tls.ca) if tls else True
    url = f"{'https' if tls else 'http'}://127.0.0.1:{proxy.port}{path}"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.request("GET" if body is None else "POST", url, headers=fields, data=body) as response,
    ):
        await response.read()
        return response.status


def recorded(proxy: Proxy, *, at_least: int) -> int:
    """How many lines the record has once it has *at_least* so many, or after a generous wait."""
    give_up = time.monotonic() + WAIT_SECONDS
    while proxy.recorded() < at_least and time.monotonic() < give_up:
        time.sleep(0.05)
    return proxy.recorded()


async def test_verified_caller_reaches_the_upstream_with_the_injected_token(
    proxy: Proxy, upstream: world.Upstream, issuer: Issuer, tls: TlsFiles | None
) -> None:
    """
    A caller's requests reach the upstream without "/api", with the injected token alone, and leave a line each.
    """
    first = await get(proxy, "/api/people?page=2", bearer=issuer.credential, tls=tls)
    second = await get(proxy, "/api/people", bearer=issuer.credential, tls=tls, body=b"x" * 100_000)

    assert [200, 200] == [first, second]
    assert ["GET /people?page=2 HTTP/1.1", "POST /people HTTP/1.1"] == [each.request_line for each in upstream.received]
    assert [f"Bearer {TOKEN}"] * 2 == upstream.authorizations
    assert [0, 100_000] == [len(each.body) for each in upstream.received]
    assert 2 == recorded(proxy, at_least=2)
    assert proxy.cpu_seconds() >= 0


@pytest.mark.parametrize("tls", [None], ids=["plain"])
async def test_caller_in_doubt_is_refused_and_nothing_reaches_the_upstream(
    peer: Peer, proxy: Proxy, upstream: world.Upstream, issuer: Issuer, tls: TlsFiles | None
) -> None:
    """
    Whatever is wrong with a JWT, the upstream hears nothing: 401, or Envoy's 403 to another audience.
    """
    if peer.NAME == "nginx":
        pytest.skip("nginx verifies no JWT: it is the floor")
    assert 200 == await get(proxy, "/api/people", bearer=issuer.credential, tls=tls)
    remembered = with_broken_signature(issuer.credential)

    cases = {**REFUSED, "a broken signature on a remembered JWT": remembered}
    statuses = {name: await get(proxy, "/api/people", bearer=bearer, tls=tls) for name, bearer in cases.items()}

    assert {name: status for name, status in statuses.items() if status not in {401, 403}} == {}
    assert 1 == len(upstream.received)


@pytest.mark.parametrize("tls", [None], ids=["plain"])
async def test_upstream_connection_is_kept(
    proxy: Proxy, upstream: world.Upstream, issuer: Issuer, tls: TlsFiles | None
) -> None:
    """
    Requests of one connection reach the upstream over one connection.
    """
    fields = {"Authorization": f"Bearer {issuer.credential}"}
    async with aiohttp.ClientSession(headers=fields) as session:
        for _ in range(5):
            async with session.get(f"http://127.0.0.1:{proxy.port}/api/people") as response:
                await response.read()

    assert 5 == len(upstream.received)
    assert 1 == upstream.connections


async def test_upstream_of_another_authority_is_not_called(peer: Peer, issuer: Issuer, tmp_path: Path) -> None:
    """
    With TLS the upstream's certificate is verified: one of a stranger gets no request.
    """
    ours, theirs = (tmp_path / "ours", tmp_path / "theirs")
    for folder in (ours, theirs):
        folder.mkdir()
    tls, stranger = make_tls_files(ours), make_tls_files(theirs)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(stranger.cert, stranger.key)
    server = await world.Upstream().start(tls=context)
    with peer.running(Upstream(server.port, TOKEN), issuer, directory=tmp_path, tls=tls) as proxy:
        status = await get(proxy, "/api/people", bearer=issuer.credential, tls=tls)
    await server.stop()

    assert status >= 500
    assert [] == server.received
