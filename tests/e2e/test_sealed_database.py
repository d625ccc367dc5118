"""What somebody has who has the database and not the sealing key: names, times, no secret, and no way to swap any."""

from __future__ import annotations

import asyncio
import json
import subprocess
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.e2e.canaries import Canaries, spellings
from tests.e2e.gateway_process import RunningProcess, serving
from tests.tools import require_tool
from tests.vault.authority import Authority, authority
from tests.vault.connecting import Browser, Page
from tests.world import Issuer, Upstream, settings

OUTBOUND = "/v1/mgmt/outbound"
ROUTE = {"name": "api", "prefix": "/api", "connection": "api"}


# --- in clear ----------------------------------------------------------------------------------------------------


async def test_dump_shows_no_secret(
    tmp_path: Path, database_path: Path, database_url: str, upstream: Upstream, issuer: Issuer
) -> None:
    """
    Neither a dump nor any byte of SQLite's files holds a token, a key or a secret, whatever they are encoded in.
    """
    canary = Canaries()
    data, environ = tmp_path / "data", {"GATEWAY_DATABASE_URL": database_url}
    route = ROUTE | {"upstream": upstream.url}
    registration = {"client_id": "client", "client_secret": canary["client secret, registered"]}
    async with (
        authority(registration=registration) as provider,
        serving(settings(route, issuers=(issuer,)), data, environ=environ) as gateway,
        Browser() as first,
        Browser() as second,
        Browser() as third,
    ):
        await _store(gateway, provider, canary)
        canary.keep("agent key", (await gateway.agent_key("ada")).split("_")[2])
        canary.keep("management key", gateway.management_key.split("_")[2])
        canary.keep("sealing key", (data / "sealing.key").read_text().strip())
        connect = partial(_connect, gateway, provider, issuer, canary)
        await connect(first, "connected")
        provider.sub = "account-2"
        confirming = await connect(second, "to be confirmed")
        asked = await connect(third, "under way", until=provider.url)
        canary.keep("state", parse_qs(urlsplit(asked.url).query)["state"][0])

        shown = await asyncio.to_thread(_everything, database_url, database_path)
        # What the attempt under way kept sealed is told when it goes on.
        await third.get(asked.url)
        canary.keep("verifier", provider.exchanged[-1]["code_verifier"])

    assert "another account" in confirming.text
    assert all(word in shown for word in ("ada", "asked", "confirming", "connected"))
    assert 23 == len(canary)
    assert [] == sorted(name for name, secret in canary.items() if any(each in shown for each in spellings(secret)))


async def _store(gateway: RunningProcess, provider: Authority, canary: Canaries) -> None:
    """Two connections, and tokens of three kinds."""
    await gateway.api(
        f"{OUTBOUND}/app/create", {"id": "api", "name": "The API", "useDcr": True, "discoveryUrl": provider.url}
    )
    mail = {"id": "mail", "name": "Mail", "clientId": "client", "clientSecret": canary["client secret"]}
    await gateway.api(f"{OUTBOUND}/app/create", mail)
    await gateway.api(f"{OUTBOUND}/app/create", {"id": "keys", "name": "Keys", "appType": "apikey"})
    await gateway.connect(
        "ada", access_token=canary["access token"], refresh_token=canary["refresh token"], connection="mail"
    )
    acme = {"appId": "mail", "tenantId": "acme", "accessToken": canary["tenant's token"]}
    await gateway.api(f"{OUTBOUND}/app/tenant/oauthtoken/upload", acme)
    key = {"appId": "keys", "userId": "ada", "apiKey": canary["API key"]}
    await gateway.api(f"{OUTBOUND}/app/user/apikey/upload", key)


async def _connect(
    gateway: RunningProcess,
    provider: Authority,
    issuer: Issuer,
    canary: Canaries,
    browser: Browser,
    name: str,
    *,
    until: str | None = None,
) -> Page:
    """Begin to connect ada's account, and go on *until* an address, or as far as it goes without another answer."""
    provider.token = {
        "access_token": canary[f"access token, {name}"],
        "refresh_token": canary[f"refresh token, {name}"],
    }
    headers = {"Authorization": f"Bearer acme:{issuer.token('ada')}"}
    url = f"{gateway.process.token_api_url}{OUTBOUND}/app/connect"
    async with gateway.session.post(url, json={"appId": "api"}, headers=headers) as response:
        link = (await response.json())["url"]
    canary.keep(f"link, {name}", link.rpartition("/")[2])
    page = await browser.answer(await browser.get(link), until=until)
    canary.keep(f"cookie, {name}", browser.cookie)
    return page


def _everything(database_url: str, database_path: Path) -> str:
    """Return all that the database is: what its own tool dumps, and every byte of SQLite's files."""
    if database_url.startswith("sqlite"):
        command = [str(require_tool("sqlite3")), str(database_path), ".dump"]
        files = sorted(database_path.parent.glob(f"{database_path.name}*"))
        assert [".db", ".db-shm", ".db-wal"] == [path.suffix for path in files]
    else:
        command = [str(require_tool("pg_dump")), database_url.replace("+psycopg", "")]
        files = []
    dumped = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
    return b"".join((dumped, *(path.read_bytes() for path in files))).decode("latin-1")


# --- moved -------------------------------------------------------------------------------------------------------


async def test_swapped_rows_are_refused_and_not_repaired(
    tmp_path: Path, database_url: str, upstream: Upstream, issuer: Issuer
) -> None:
    """
    Two users whose sealed tokens were swapped in the database get neither token, on either door, and 503 as documented.
    """
    data, environ = tmp_path / "data", {"GATEWAY_DATABASE_URL": database_url}
    route = ROUTE | {"upstream": upstream.url}
    async with serving(settings(route, issuers=(issuer,)), data, environ=environ) as gateway:
        await gateway.api(f"{OUTBOUND}/app/create", {"id": "api", "name": "The API"})
        for user in ("ada", "bob"):
            await gateway.connect(user, access_token=f"AT-{user}")

        swapped = await asyncio.to_thread(_swap, database_url)
        fetched = [await _fetch(gateway, user) for user in ("ada", "bob")]
        called = [await _call(gateway, issuer, user) for user in ("ada", "bob")]
        reached = list(upstream.received)
        restored = await asyncio.to_thread(_swap, database_url)
        served = [await _fetch(gateway, user) for user in ("ada", "bob")]

    assert [(503, "E011013")] * 2 == fetched
    assert [(503, "token_service_unavailable")] * 2 == called
    assert [] == reached
    assert swapped == list(reversed(restored))
    assert [(200, "AT-ada"), (200, "AT-bob")] == served
    assert '"event": "seal_broken"' in gateway.process.stderr
    assert "AT-" not in gateway.process.stderr


def _swap(database_url: str) -> list[bytes]:
    """Swap the access tokens of the only two rows, and return them as they are now, by user."""
    engine = create_engine(database_url.replace("+aiosqlite", ""), poolclass=NullPool)
    with engine.begin() as db:
        one, two = db.execute(text("SELECT id, sealed_access_token FROM tokens ORDER BY user_id")).all()
        put = text("UPDATE tokens SET sealed_access_token = :sealed WHERE id = :id")
        db.execute(put, [{"id": one.id, "sealed": two[1]}, {"id": two.id, "sealed": one[1]}])
    engine.dispose()
    return [bytes(two[1]), bytes(one[1])]


async def _fetch(gateway: RunningProcess, user: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer acme:{gateway.management_key}"}
    url = f"{gateway.process.token_api_url}{OUTBOUND}/app/user/token/latest"
    async with gateway.session.post(url, json={"appId": "api", "userId": user}, headers=headers) as response:
        content = await response.json()
        return response.status, content["token"]["accessToken"] if response.status == 200 else content["errorCode"]


async def _call(gateway: RunningProcess, issuer: Issuer, user: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {issuer.token(user)}"}
    async with gateway.session.get(f"{gateway.url}/api/me", headers=headers) as response:
        return response.status, json.loads(await response.read())["code"]
