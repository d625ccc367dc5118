"""The official Node SDK, unmodified, in a node process against a gateway process: only its base URL differs."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from tests.e2e.gateway_process import RunningProcess, serving
from tests.tools import ROOT, missing, require_tool
from tests.world import PROJECT, Issuer, Provider, settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE_SDK = ROOT / "tests" / "node_sdk"
RUN_SECONDS = 60.0
POLICIES = [{"id": "raw", "effect": "allow", "connections": ["mail"]}]

Said = dict[str, dict[str, Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    """Where the access token comes from."""
    issuer = await Issuer().start()
    yield issuer
    await issuer.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningProcess]:
    """A gateway process without any connection."""
    data: Path = tmp_path_factory.mktemp("node") / "data"
    async with serving(settings(issuers=(issuer,), policies=POLICIES), data) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def said(gateway: RunningProcess, issuer: Issuer) -> Said:
    """What the SDK gave its caller for each call of tests/node_sdk/outbound.mjs."""
    node = require_tool("node")
    if not (NODE_SDK / "node_modules" / "@descope" / "node-sdk").is_dir():
        missing("@descope/node-sdk", f"npm ci --prefix {NODE_SDK.relative_to(ROOT)}")
    provider = await Provider().start()
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "URL": str(gateway.process.token_api_url),
        "PROJECT": PROJECT,
        "KEY": gateway.management_key,
        "ACCESS_TOKEN": issuer.token("alice"),
        "TOKEN_URL": f"{provider.url}/token",
        "REFRESH_TOKEN": provider.issue(),
    }
    process = await asyncio.create_subprocess_exec(
        str(node), "outbound.mjs", cwd=NODE_SDK, env=environ, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await provider.stop()
    assert 0 == process.returncode, err.decode()
    answers = json.loads(out)
    tried = (NODE_SDK / "outbound.mjs").read_text()
    assert [] == [name for name in answers["functions"] if f"outbound.{name}(" not in tried]
    found: Said = answers["said"]
    return found


OUTCOMES: dict[str, tuple[bool, int, str | None]] = {
    "createApplicationTwice": (False, 409, "E151001"),
    "fetchTokenOfNobody": (False, 404, "E111504"),
    "fetchTokenByTokenOfBob": (False, 403, "E011006"),
    "manageByToken": (False, 403, "E011006"),
    "connectByKey": (False, 403, "E011006"),
    "fetchTenantTokenDeleted": (False, 404, "E111504"),
    "fetchTokenOfBobDeleted": (False, 404, "E111504"),
    "deleteNothing": (False, 400, "E011002"),
    "loadApplicationDeleted": (False, 404, "E151002"),
}


async def test_every_call_has_its_outcome(said: Said) -> None:
    """What should work is ok, and what should not carries status and code of the contract."""
    outcomes = {name: (each["ok"], each["code"], each["errorCode"]) for name, each in said.items()}
    wanted = {name: OUTCOMES.get(name, (True, 200, None)) for name in said}
    assert wanted == outcomes


async def test_connect_leads_to_a_page(said: Said, gateway: RunningProcess) -> None:
    """A user's access token begins to connect: the URL is a page of the gateway, where the user is asked."""
    url = said["connect"]["data"]["url"]
    assert url.startswith(f"{gateway.process.traffic_url}/connect/")
    async with ClientSession() as session, session.get(url) as page:
        assert 200 == page.status
        assert "Our GitHub" in await page.text()


async def test_connections_come_back(said: Said) -> None:
    """The SDK unwraps what it loads; an update keeps the secret, and nobody is shown it."""
    loaded = said["loadApplication"]["data"]
    assert ("Mail 2", "changed", []) == (loaded["name"], loaded["description"], loaded["tokenUrlParams"])
    assert "client_secret_basic" == loaded["tokenEndpointAuthMethod"]
    assert ["gh", "keys", "mail"] == [app["id"] for app in said["loadAllApplications"]["data"]]
    made = said["createApplicationByTemplate"]["data"]
    assert ("Our GitHub", "github", True) == (made["name"], made["templateId"], "github.com" in made["tokenUrl"])
    assert "CANARY" not in json.dumps(said)


async def test_tokens_come_back(said: Said) -> None:
    """The SDK hands out the token itself; levels, keys and refreshes are told apart."""

    def token(name: str) -> Any:
        return said[name]["data"]

    first, forced = token("fetchToken"), token("fetchTokenForced")
    assert (first["id"], True, False) == (forced["id"], first["hasRefreshToken"], "refreshToken" in first)
    assert first["accessToken"] != forced["accessToken"]
    assert forced["refreshToken"]
    assert forced["accessToken"] == token("fetchTokenByScopes")["accessToken"]
    assert forced["accessToken"] == token("fetchTokenByToken")["accessToken"]
    assert ("AT-acme", "") == (token("fetchTenantToken")["accessToken"], token("fetchTenantToken")["userId"])
    assert ("K-alice", "ApiKey") == tuple(
        token("fetchTokenApiKey")[name] for name in ("accessToken", "accessTokenType")
    )
    assert ["keys", "mail"] == sorted(said["listAppsWithUserToken"]["data"])
    assert [] == said["listAppsOfDeleted"]["data"]


async def test_batches_tell_their_failures(said: Said) -> None:
    """A batch that was stored has none; one that was not names each."""
    assert {"failures": []} == said["batchUploadUserTokens"]["data"] == said["batchUploadTenantTokens"]["data"]
    (failure,) = said["batchWithFailures"]["data"]["failures"]
    assert ("nothing", "x", "E151002", False) == (
        failure["appId"], failure["userId"], failure["errorCode"], "tenantId" in failure,
    )  # fmt: skip
