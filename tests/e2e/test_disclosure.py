"""What the doors tell: no caller's name to a scrape, no version to a stranger, nothing to a probe that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proxy.wire import WireAnswer, call, calling, gateway_with, request
from tests.world import PROJECT, Issuer, Running, Upstream

USERS = 50
METHODS = ("GET", "POST", "PURGE", "X-{user}")
PATHS = ("/api/{user}", "/{user}/x", "/api/../{user}", "/api/x?{user}")

PROBES = {
    "Kubernetes": "User-Agent: kube-probe/1.33",
    "Google": "User-Agent: GoogleHC/1.0",
    "Amazon": "User-Agent: ELB-HealthChecker/2.0",
    "a proxy that has asked already": "X-Auth-Request-Redirect: /healthz",
    "a rewritten path": "X-Original-URL: /healthz",
}
NO_PAGES = (
    "/debug",
    "/debug/pprof/",
    "/debug/vars",
    "/cache",
    "/tokens",
    "/config",
    "/env",
    "/_admin",
    "/healthz/../x",
)


async def test_scrape_has_as_many_series_after_many_users(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    No user, path or method that a caller invents becomes a label: 50 of them count in the series of the first (D16).
    """
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway:
        await _everything(gateway, issuer, "ada")
        await _everything(gateway, issuer, "user-0")
        before = await _series(gateway)
        for number in range(1, USERS):
            await _everything(gateway, issuer, f"user-{number}")
        after = await _series(gateway)

    assert before == after
    assert "user-" not in "".join(after)


@pytest.mark.parametrize("probe", PROBES)
async def test_nobody_passes_for_a_health_check(tmp_path: Path, upstream: Upstream, issuer: Issuer, probe: str) -> None:
    """
    Without a credential no field and no path gets a call through: health has its own listener (threats C13).
    """
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway:
        paths = ("/healthz", "/readyz", "/metrics", "/ping", "/api/healthz", "/api/x")
        got = [await call(gateway, request("GET", path, fields=(PROBES[probe],))) for path in paths]

    assert [(401, "caller_unauthenticated")] * len(paths) == [(each.status, each.code) for each in got]
    assert [] == upstream.received


async def test_no_door_says_what_it_runs_on(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Server is the API's own, or names no version: of Python and aiohttp nobody hears, whatever goes wrong (E10).
    """
    servers: list[str] = []
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway:
        good = request("GET", "/api/x", credential=issuer.token("ada"))
        for data in (
            good,
            request("GET", "/api/x"),
            request("GET", "/nowhere"),
            b"GET / HTTP/9.9\r\n\r\n",
            b"\0\r\n\r\n",
        ):
            for url in (gateway.url, gateway.gateway.token_api_url, gateway.gateway.console_url):
                assert url is not None
                servers += (await _call_at(gateway, url, data)).values("Server")

    assert {"connection-gateway"} == set(servers)


async def test_console_has_nothing_to_look_into_the_process_with(
    tmp_path: Path, upstream: Upstream, issuer: Issuer
) -> None:
    """
    There is no page that shows memory, settings or tokens, on no door and to no key (threats E9).
    """
    statuses = set()
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway:
        headers = {"Authorization": f"Bearer {PROJECT}:{gateway.management_key}"}
        for url in (gateway.gateway.token_api_url, gateway.gateway.console_url):
            for path in NO_PAGES:
                async with gateway.session.get(f"{url}{path}", headers=headers) as response:
                    statuses.add(response.status)

    assert {404} == statuses


async def _everything(gateway: Running, issuer: Issuer, user: str) -> None:
    """Let *user* call with each method and path, most of which are refused."""
    credential = issuer.token(user)
    for method in METHODS:
        for path in PATHS:
            await call(gateway, request(method.format(user=user), path.format(user=user), credential=credential))


async def _series(gateway: Running) -> set[str]:
    """Return the names and labels that a scrape has, but for the vault's: tests/vault/test_metrics.py has those."""
    async with gateway.session.get(f"{gateway.gateway.console_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return {line.rpartition(" ")[0] for line in lines if line.startswith(("gateway_request", "gateway_unread"))}


async def _call_at(gateway: Running, url: str, data: bytes) -> WireAnswer:
    """Send *data* to the listener at *url* and return what it answers."""
    async with calling(gateway, url) as caller:
        await caller.send(data)
        return await caller.answer()
