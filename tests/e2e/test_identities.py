"""Whose token a call gets: what the credential says, and nothing that the caller says beside it (C14, C15, D2)."""

from __future__ import annotations

from pathlib import Path

from tests.proxy.wire import call, request
from tests.world import Issuer, Upstream, create_connection, key_ring, running, settings

# Each names another user or tenant, in a place where some gateway or API has looked for one.
CLAIMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "our field": ("/api/x", ("Gateway-User: bob",)),
    "our field, in capitals": ("/api/x", ("GATEWAY-USER: bob",)),
    "our field, twice": ("/api/x", ("Gateway-User: ada", "Gateway-User: bob")),
    "a list in our field": ("/api/x", ("Gateway-User: ada, bob",)),
    "our tenant field": ("/api/x", ("Gateway-Tenant: acme",)),
    "our account field": ("/api/x", ("Gateway-Account: bob",)),
    "fields of other gateways": (
        "/api/x",
        (
            "X-User-Id: bob",
            "X-Forwarded-User: bob",
            "X-Remote-User: bob",
            "X-Auth-Request-User: bob",
            "X-Tenant-Id: acme",
        ),
    ),
    "an underscore": ("/api/x", ("Gateway_User: bob",)),
    "a cookie": ("/api/x", ("Cookie: Gateway-User=bob; user=bob",)),
    "the query": ("/api/x?Gateway-User=bob&user=bob&userId=bob&tenant=acme&subject=bob", ()),
    "the path": ("/api/users/bob/x", ()),
    "a field that Connection names": ("/api/x", ("Connection: Gateway-User", "Gateway-User: bob")),
}


async def test_caller_gets_no_other_token_whatever_it_names(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    Whatever identifier of another is written wherever, the call is refused or goes out with the caller's own token.
    """
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    wrong: dict[str, object] = {}
    async with running(settings(route, issuers=(issuer,)), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        for user in ("ada", "bob"):
            await gateway.connect(user, access_token=f"T-{user}")
        await gateway.connect("ada", access_token="T-ada-in-acme", tenantId="acme")
        for case, (target, fields) in CLAIMS.items():
            for credential in (issuer.token("ada"), await gateway.agent_key("ada")):
                got = await call(gateway, request("GET", target, credential=credential, fields=fields))
                sent = [each.values("Authorization") for each in upstream.received]
                upstream.received.clear()
                if not (sent == [["Bearer T-ada"]] if got.status == 200 else got.status in (400, 403) and not sent):
                    wrong[case] = (got.status, sent)

    assert {} == wrong


async def test_same_subject_of_two_issuers_is_two_users(tmp_path: Path, upstream: Upstream, issuer: Issuer) -> None:
    """
    The issuer is part of who calls: the same sub of another one gets the token of its own user.
    """
    second = await Issuer().start()
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route)
    configuration["callers"]["issuers"] = [issuer.settings(), {**second.settings(), "user_prefix": "b|"}]
    async with running(configuration, tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T-of-the-first")
        await gateway.connect("b|ada", access_token="T-of-the-second")
        for each in (issuer, second, issuer):
            await call(gateway, request("GET", "/api/x", credential=each.token("ada")))
        forged = await call(gateway, request("GET", "/api/x", credential=issuer.token("b|ada")))
    await second.stop()

    first, other = "Bearer T-of-the-first", "Bearer T-of-the-second"
    assert [first, other, first] == upstream.authorizations
    assert 401 == forged.status


async def test_agents_of_one_user_have_rights_of_their_own(tmp_path: Path, upstream: Upstream) -> None:
    """
    Two agents of one user share its grants; each gets through only where a policy names it.
    """
    routes = [
        {"name": name, "prefix": f"/{name}", "upstream": upstream.url, "connection": "api"}
        for name in ("mail", "files")
    ]
    policies = [
        {"id": "mail", "effect": "allow", "clients": ["mailer"], "routes": ["mail"], "methods": ["GET"]},
        {"id": "files", "effect": "allow", "clients": ["filer"], "routes": ["files"], "paths": ["/mine/**"]},
    ]
    seen = {}
    async with running(settings(*routes, policies=policies), tmp_path / "data") as gateway:
        await create_connection(gateway, None)
        await gateway.connect("ada", access_token="T1")
        async with key_ring(gateway.data) as ring:
            keys = {name: (await ring.create_agent(name, user="ada")).secret for name in ("mailer", "filer", "other")}
        for name, key in keys.items():
            for method in ("GET", "POST"):
                for path in ("/mail/mine/x", "/files/mine/x", "/files/x"):
                    got = await call(gateway, request(method, path, credential=key))
                    seen[name, method, path] = got.code or got.status

    allowed = {case for case, outcome in seen.items() if outcome == 200}
    assert {
        ("mailer", "GET", "/mail/mine/x"),
        ("filer", "GET", "/files/mine/x"),
        ("filer", "POST", "/files/mine/x"),
    } == allowed
    assert {"denied_by_policy", 200} == set(seen.values())
    assert len(allowed) == len(upstream.received)
