"""What a browser makes of answers that came through the gateway: nothing of a provider's runs as ours (threats C9)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.browser import Tab, chromium
from tests.proxy.wire import call, gateway_with, request
from tests.world import Issuer, Received, Upstream

RUNS = b"ran(document.currentScript.id)"
PAGE = b"<!doctype html><h1>quiet</h1><script>document.querySelector('h1').textContent = 'ran'</script>"
# Another site, whose page loads three answers of the gateway as scripts.
SITE = """<!doctype html><h1>waiting</h1>
<script>
const seen = {{}};
function ran(name) {{ seen[name] = "ran"; }}
function ended(name) {{
  seen[name] ??= "blocked";
  if (Object.keys(seen).length === 3) document.querySelector("h1").textContent = JSON.stringify(seen);
}}
</script>
<script id="json" src="{url}/json" onload="ended(id)" onerror="ended(id)"></script>
<script id="html" src="{url}/html" onload="ended(id)" onerror="ended(id)"></script>
<script id="jsonp" src="{url}/jsonp?callback=ran" onload="ended(id)" onerror="ended(id)"></script>
"""


async def _serve(received: Received, writer: asyncio.StreamWriter) -> None:
    """Answer as an API does that can be made to say anything: each kind of answer is a script as well."""
    kinds = {"/page": "text/html", "/json": "application/json", "/html": "text/html", "/jsonp": "text/javascript"}
    path = received.request_line.split(" ")[1].partition("?")[0]
    body = PAGE if path == "/page" else RUNS
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kinds[path]}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _site(url: str, shown: Tab) -> str:
    """Return what came of the three scripts of *url* in a page of another origin."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = SITE.format(url=url).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        await shown.call("Page.navigate", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        return await shown.until("{")


async def test_documents_of_a_provider_run_nothing(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    A page that runs its script at the provider runs none at the gateway, where it has no origin either.
    """
    upstream.respond = _serve
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway, chromium() as tab:
        # What a server before the gateway would do that knows the user by a cookie.
        await tab.call("Network.enable")
        await tab.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {issuer.token('ada')}"})
        await tab.call("Page.navigate", url=f"{upstream.url}/page")
        direct = await tab.until("ran")
        await tab.call("Page.navigate", url=f"{gateway.url}/api/page")
        through = await tab.until("quiet")
        origin = await tab.evaluate("self.origin")

    assert ("ran", "quiet", "null") == (direct, through, origin)


async def test_answers_are_no_scripts_of_another_site(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    What runs as a script from the provider does not from the gateway: JSON and HTML because of `nosniff`, what asks
    for a script because it is refused; it alone would run.
    """
    upstream.respond = _serve
    async with chromium() as tab:
        seen = [await _site(upstream.url, tab)]
    for jsonp in ("refuse", "pass"):
        async with gateway_with(tmp_path / jsonp, upstream, issuer, None, jsonp=jsonp) as gateway, chromium() as tab:
            await tab.call("Network.enable")
            await tab.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {issuer.token('ada')}"})
            seen.append(await _site(f"{gateway.url}/api", tab))

    assert [
        '{"json":"ran","html":"ran","jsonp":"ran"}',
        '{"json":"blocked","html":"blocked","jsonp":"blocked"}',
        '{"json":"blocked","html":"blocked","jsonp":"ran"}',
    ] == seen


async def test_get_that_asks_for_a_script_is_refused(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    It is refused with a code of its own, the connection stays, and nothing reaches the upstream; a POST passes.
    """
    seen: dict[str, Any] = {}
    async with gateway_with(tmp_path, upstream, issuer, None) as gateway:
        for method in ("GET", "POST"):
            data = request(method, "/api/x?a=b&callback=steal", credential=issuer.token("ada"))
            got = await call(gateway, data)
            seen[method] = (got.status, got.code, got.values("Connection"))

    assert {"GET": (403, "jsonp_not_allowed", []), "POST": (200, None, [])} == seen
    assert ["POST /x?a=b&callback=steal HTTP/1.1"] == [each.request_line for each in upstream.received]
