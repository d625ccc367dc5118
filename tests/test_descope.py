"""Descope as the token service: what is asked, what is believed, what every failure becomes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
import structlog
from aiohttp import web

from gateway.descope import Descope, default_base_url, fetch_request, read_expiry
from gateway.errors import (
    CallerKindUnsupported,
    ConnectionRequired,
    ConnectionUnknown,
    DeniedByPolicy,
    Refusal,
    SubjectRequired,
    TokenServiceUnavailable,
)
from gateway.models import Caller, CallerKind, ConnectionToken, Egress, TokenKey
from gateway.net.client import OutboundClient

NOW = 1_700_000_000.0
KEY = TokenKey("google-contacts", "u1", None)
ADA = Caller("jwt", "u1")
JWT = "eyJhbGciOiJSUzI1NiJ9.canary-jwt.c2ln"
MANAGEMENT_KEY = "K2canary-management-key"


@dataclass
class Asked:
    """One request as the service saw it."""

    path: str
    authorization: str
    body: dict[str, Any]

    @property
    def is_forced(self) -> bool:
        """Whether a refresh was demanded."""
        return bool(self.body["options"]["forceRefresh"])


@dataclass
class Service:
    """Plays the contract: holds one token, counts up at a refresh. *answer* replaces what it would say."""

    current: str = "T1"
    token: dict[str, Any] = field(default_factory=dict)
    refreshes: int = 0
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    is_stubborn: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one fetch."""
        asked = Asked(request.path, request.headers["Authorization"], await request.json())
        self.asked.append(asked)
        await self.gate.wait()
        if self.answer is not None:
            return await self.answer(request)
        if asked.is_forced and not self.is_stubborn:
            self.refreshes += 1
            self.current = f"T{self.refreshes + 1}"
        return web.json_response(
            {
                "token": {
                    "id": "tok1",
                    "appId": asked.body["appId"],
                    "userId": asked.body.get("userId", ""),
                    "tenantId": asked.body.get("tenantId") or "",
                    "accessToken": self.current,
                    "accessTokenType": "Bearer",
                    "accessTokenExpiry": str(int(NOW) + 3600),
                    "hasRefreshToken": True,
                    "refreshToken": "canary-refresh-token",
                    "lastRefreshTime": "0",
                    "scopes": ["a", "b"],
                    **self.token,
                }
            }
        )


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The service on loopback."""
    playing = Service()
    playing.gate.set()
    app = web.Application()
    app.router.add_post("/{path:.*}", playing.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    playing.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield playing
    playing.gate.set()
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[OutboundClient]:
    """The gateway's own HTTP client, dialling loopback."""
    async with OutboundClient(Egress(allow_private=(ip_network("127.0.0.0/8"),), allow_http=True)) as opened:
        yield opened


@pytest.fixture
def by_caller(client: OutboundClient, service: Service) -> Descope:
    """Descope asked with the caller's credential."""
    return Descope(
        client, base_url=f"{service.url}/", project="P1", management_key=None, clock=lambda: NOW, monotonic=lambda: 0.0
    )


@pytest.fixture
def by_key(client: OutboundClient, service: Service) -> Descope:
    """Descope asked with a management key."""
    return Descope(
        client,
        base_url=service.url,
        project="P1",
        management_key=MANAGEMENT_KEY,
        clock=lambda: NOW,
        monotonic=lambda: 0.0,
    )


REQUESTS: dict[str, tuple[TokenKey, str, dict[str, Any]]] = {
    "a user's latest": (
        TokenKey("app", "u1", None),
        "/v1/mgmt/outbound/app/user/token/latest",
        {"appId": "app", "userId": "u1"},
    ),
    "a user's by scopes": (
        TokenKey("app", "u1", None, ("a", "b")),
        "/v1/mgmt/outbound/app/user/token",
        {"appId": "app", "userId": "u1", "scopes": ["a", "b"]},
    ),
    "a user's by no scopes": (
        TokenKey("app", "u1", None, ()),
        "/v1/mgmt/outbound/app/user/token",
        {"appId": "app", "userId": "u1", "scopes": []},
    ),
    "a user's within a tenant, of an account": (
        TokenKey("app", "u1", "t1", None, "work"),
        "/v1/mgmt/outbound/app/user/token/latest",
        {"appId": "app", "userId": "u1", "tenantId": "t1", "externalIdentifier": "work"},
    ),
    "a tenant's latest": (
        TokenKey("app", None, "t1"),
        "/v1/mgmt/outbound/app/tenant/token/latest",
        {"appId": "app", "tenantId": "t1"},
    ),
    "a tenant's by scopes": (
        TokenKey("app", None, "t1", ("a",)),
        "/v1/mgmt/outbound/app/tenant/token",
        {"appId": "app", "tenantId": "t1", "scopes": ["a"]},
    ),
}


@pytest.mark.parametrize(("key", "path", "message"), REQUESTS.values(), ids=REQUESTS.keys())
@pytest.mark.parametrize("force", [False, True])
def test_asks_by_the_contract(key: TokenKey, path: str, message: dict[str, Any], force: bool) -> None:
    """
    Rows 1 to 4: the level chooses the path; the refresh token is never asked for.
    """
    options = {"withRefreshToken": False, "forceRefresh": force}

    assert (path, {**message, "options": options}) == fetch_request(key, force=force)


def test_asks_for_nobody_never() -> None:
    """
    Neither user nor tenant is no level.
    """
    with pytest.raises(SubjectRequired):
        fetch_request(TokenKey("app", None, None), force=False)


BASE_URLS = {
    "a short id": ("P1", "https://api.descope.com"),
    "31 characters": ("P" + "x" * 30, "https://api.descope.com"),
    "a regional id": ("Peuc1" + "x" * 27, "https://api.euc1.descope.com"),
}


@pytest.mark.parametrize(("project", "url"), BASE_URLS.values(), ids=BASE_URLS.keys())
def test_base_url_follows_the_project(project: str, url: str) -> None:
    """
    Where no URL is configured, the project's id says the region (contract section 1).
    """
    assert url == default_base_url(project)


@pytest.mark.parametrize("project", ["", "a b", "P1:x", "P1\r\nX: y", "P/../x" + "x" * 40, "ü"])
def test_a_project_id_that_could_break_the_wire_is_refused(project: str, client: OutboundClient) -> None:
    """
    The id stands in a header field and a host name: letters, digits, _ and - only.
    """
    with pytest.raises(ValueError, match="project"):
        Descope(client, base_url=None, project=project, management_key=None, clock=lambda: NOW, monotonic=lambda: 0.0)


EXPIRIES: dict[str, tuple[object, float | None]] = {
    "missing": (None, None),
    "empty": ("", None),
    "zero": ("0", None),
    "the number zero": (0, None),
    "seconds in a string": ("1700003600", 1_700_003_600.0),
    "seconds": (1_700_003_600, 1_700_003_600.0),
    "seconds with a fraction": (1_700_003_600.5, 1_700_003_600.5),
    "seconds with a fraction in a string": ("1700003600.5", 1_700_003_600.5),
    "spaces around": (" 1700003600 ", 1_700_003_600.0),
    "milliseconds": (1_700_003_600_000, 1_700_003_600.0),
    "milliseconds in a string": ("1700003600000", 1_700_003_600.0),
    "RFC 3339": ("2024-12-31T23:59:59Z", 1_735_689_599.0),
    "RFC 3339 with an offset": ("2025-01-01T01:59:59+02:00", 1_735_689_599.0),
    "RFC 3339 without a zone": ("2024-12-31T23:59:59", 1_735_689_599.0),
    "the past": ("1", 1.0),
    "the year 9999": ("9999-12-31T23:59:59Z", 253_402_300_799.0),
    "Go's zero time": ("0001-01-01T00:00:00Z", None),
    "beyond the year 9999": (10**18, None),
    "a number of 400 digits": (10**400, None),
    "a string of 5000 digits": ("9" * 5000, None),
    "infinity": (math.inf, None),
    "infinity in a string": ("1e400", None),
    "not a number": (math.nan, None),
    "not a number in a string": ("nan", None),
    "negative": (-1, None),
    "words": ("tomorrow", None),
    "a boolean": (True, None),
    "a list": ([1], None),
    "an object": ({"seconds": 1}, None),
}


@pytest.mark.parametrize(("value", "seconds"), EXPIRIES.values(), ids=EXPIRIES.keys())
def test_reads_every_expiry(value: object, seconds: float | None) -> None:
    """
    Whatever is in the field, it is a time or it is unknown.
    """
    assert seconds == read_expiry(value)


async def test_the_callers_own_credential_asks(by_caller: Descope, service: Service) -> None:
    """
    Without a management key Descope sees project and JWT, and its answer is for that caller only.
    """
    token = await by_caller.fetch(KEY, caller=ADA, credential=JWT)

    assert ("T1", "tok1", "Bearer", ("a", "b")) == (token.access_token, token.id, token.token_type, token.scopes)
    assert (NOW + 3600, NOW + 3540, False) == (token.expires_at, token.refresh_at, token.refreshed)
    assert [f"Bearer P1:{JWT}"] == [asked.authorization for asked in service.asked]
    assert ["/v1/mgmt/outbound/app/user/token/latest"] == [asked.path for asked in service.asked]
    assert not by_caller.shares_tokens_between_callers
    assert 60.0 == by_caller.max_cache_seconds


async def test_a_management_key_asks_for_everybody(by_key: Descope, service: Service) -> None:
    """
    With a key the caller's credential never leaves, and every kind of caller is served.
    """
    for kind in ("jwt", "agent", "management"):
        await by_key.fetch(KEY, caller=Caller(kind, "u1"), credential=JWT)

    assert {f"Bearer P1:{MANAGEMENT_KEY}"} == {asked.authorization for asked in service.asked}
    assert by_key.shares_tokens_between_callers


@pytest.mark.parametrize("kind", ["agent", "management"])
async def test_only_a_jwt_can_ask_for_itself(kind: CallerKind, by_caller: Descope, service: Service) -> None:
    """
    Our own keys mean nothing to Descope, and are never sent there.
    """
    caller = Caller(kind, "u1")
    with pytest.raises(CallerKindUnsupported):
        await by_caller.fetch(KEY, caller=caller, credential="gwa_canary")
    with pytest.raises(CallerKindUnsupported):
        await by_caller.replace(KEY, rejected=ConnectionToken("x", "y"), caller=caller, credential="gwa_canary")

    assert [] == service.asked


MARGINS = {
    "an hour": (3600, 60.0),
    "ten minutes": (600, 60.0),
    "a minute": (60, 6.0),
    "expired": (-10, 0.0),
}


@pytest.mark.parametrize(("left", "margin"), MARGINS.values(), ids=MARGINS.keys())
async def test_asks_again_before_the_expiry(left: int, margin: float, by_caller: Descope, service: Service) -> None:
    """
    A minute before, at most a tenth of what is left.
    """
    service.token = {"accessTokenExpiry": str(int(NOW) + left)}
    token = await by_caller.fetch(KEY, caller=ADA, credential=JWT)

    assert (NOW + left, NOW + left - margin) == (token.expires_at, token.refresh_at)


TOKENS: dict[str, tuple[dict[str, Any], dict[str, Any] | type[Refusal]]] = {
    "no expiry": ({"accessTokenExpiry": ""}, {"expires_at": None, "refresh_at": None}),
    "a strange type": ({"accessTokenType": "a b\r\n"}, {"token_type": "Bearer"}),
    "an API key": ({"accessTokenType": "ApiKey", "accessToken": "1|abc:def"}, {"token_type": "ApiKey"}),
    "scopes in one text": ({"scopes": "a b"}, {"scopes": ("a", "b")}),
    "scopes of other types": ({"scopes": [1, None, "a b", 'a"', "c"]}, {"scopes": ("c",)}),
    "scopes that are an object": ({"scopes": {"a": 1}}, {"scopes": ()}),
    "a token of 16 KiB": ({"accessToken": "a" * 16_384}, {"access_token": "a" * 16_384}),
    "a tenant of null": ({"tenantId": None}, {"access_token": "T1"}),
    "an empty token": ({"accessToken": ""}, ConnectionRequired),
    "no token": ({"accessToken": None}, TokenServiceUnavailable),
    "a number for a token": ({"accessToken": 5}, TokenServiceUnavailable),
    "a line break in the token": ({"accessToken": "a\r\nX: y"}, TokenServiceUnavailable),
    "a space in the token": ({"accessToken": "a b"}, TokenServiceUnavailable),
    "letters outside of ASCII": ({"accessToken": "tökén"}, TokenServiceUnavailable),
    "a token of more than 16 KiB": ({"accessToken": "a" * 16_385}, TokenServiceUnavailable),
    "another user's": ({"userId": "u2"}, TokenServiceUnavailable),
    "a tenant's": ({"tenantId": "t1"}, TokenServiceUnavailable),
    "another connection's": ({"appId": "slack"}, TokenServiceUnavailable),
    "a user that is a list": ({"userId": ["u1"]}, TokenServiceUnavailable),
}


@pytest.mark.parametrize(("token", "expected"), TOKENS.values(), ids=TOKENS.keys())
async def test_reads_a_token_or_refuses_it(
    token: dict[str, Any], expected: dict[str, Any] | type[Refusal], by_caller: Descope, service: Service
) -> None:
    """
    What can be missing may be missing; the token itself and whose it is must be right.
    """
    service.token = token
    if isinstance(expected, dict):
        found = await by_caller.fetch(KEY, caller=ADA, credential=JWT)
        assert expected == {name: getattr(found, name) for name in expected}
        return
    with pytest.raises(expected):
        await by_caller.fetch(KEY, caller=ADA, credential=JWT)


@pytest.mark.parametrize("token_id", [None, "", 7, "a b", "x" * 201])
async def test_a_token_without_an_id_gets_one(token_id: object, by_caller: Descope, service: Service) -> None:
    """
    The same key has the same id each time, another key another one.
    """
    service.token = {"id": token_id}
    first = await by_caller.fetch(KEY, caller=ADA, credential=JWT)
    again = await by_caller.fetch(KEY, caller=ADA, credential=JWT)
    other = await by_caller.fetch(KEY._replace(scopes=("a",)), caller=ADA, credential=JWT)

    assert first.id == again.id != other.id


async def test_an_account_is_not_another(by_caller: Descope, service: Service) -> None:
    """
    Asked for one account, the token of another is refused; a service that does not say is believed.
    """
    work = KEY._replace(account="work")
    await by_caller.fetch(work, caller=ADA, credential=JWT)
    service.token = {"externalIdentifier": "home"}

    with pytest.raises(TokenServiceUnavailable):
        await by_caller.fetch(work, caller=ADA, credential=JWT)


def error(code: str) -> dict[str, str]:
    """A flat error of the contract, with words that must not reach a caller."""
    return {"errorCode": code, "errorDescription": "canary-words", "errorMessage": "canary-words"}


Answered = tuple[int, object, dict[str, str]]
DOWN = (TokenServiceUnavailable, TokenServiceUnavailable)
FAILURES: dict[str, tuple[Answered, type[Refusal], type[Refusal], int | None]] = {
    "never connected": ((404, error("E111504"), {}), ConnectionRequired, ConnectionRequired, None),
    "an unknown connection": ((404, error("E151002"), {}), ConnectionUnknown, ConnectionUnknown, None),
    "a foreign 404": ((404, error("E000000"), {}), *DOWN, 5),
    "a 404 of HTML": ((404, "<html>", {}), *DOWN, 5),
    "a 404 whose code is a number": ((404, {"errorCode": 1}, {}), *DOWN, 5),
    "401": ((401, error("E011005"), {}), DeniedByPolicy, TokenServiceUnavailable, 5),
    "403": ((403, error("E011006"), {}), DeniedByPolicy, TokenServiceUnavailable, 5),
    "403 of HTML": ((403, "<html>", {}), DeniedByPolicy, TokenServiceUnavailable, 5),
    "429 with a time": ((429, error("E130429"), {"Retry-After": "17"}), *DOWN, 17),
    "429 without a time": ((429, error("E130429"), {}), *DOWN, 5),
    "429 with a date": ((429, "", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), *DOWN, 5),
    "429 for eleven days": ((429, "", {"Retry-After": "999999"}), *DOWN, 3600),
    "429 for no time": ((429, "", {"Retry-After": "0"}), *DOWN, 1),
    "429 for minus one": ((429, "", {"Retry-After": "-1"}), *DOWN, 5),
    "400": ((400, error("E011004"), {}), *DOWN, 5),
    "500": ((500, "", {}), *DOWN, 5),
    "502 of HTML": ((502, "<html>", {}), *DOWN, 5),
    "503 with a time": ((503, error("E1"), {"Retry-After": "3"}), *DOWN, 3),
    "a redirect": ((302, "", {"Location": "/elsewhere"}), *DOWN, 5),
    "201": ((201, {"token": {"accessToken": "T1"}}, {}), *DOWN, 5),
    "200 of nothing": ((200, "", {}), *DOWN, 5),
    "200 of HTML": ((200, "<html>", {}), *DOWN, 5),
    "200, truncated": ((200, '{"token": {"accessTo', {}), *DOWN, 5),
    "200 of a list": ((200, [1], {}), *DOWN, 5),
    "200 of null": ((200, {"token": None}, {}), *DOWN, 5),
    "200 of an empty object": ((200, {}, {}), *DOWN, 5),
    "200 of a text": ((200, {"token": "T1"}, {}), *DOWN, 5),
    "200 without end": ((200, "a" * 200_000, {}), *DOWN, 5),
}


@pytest.mark.parametrize(("answered", "own", "managed", "retry_after"), FAILURES.values(), ids=FAILURES.keys())
async def test_every_failure_has_its_refusal(
    answered: Answered,
    own: type[Refusal],
    managed: type[Refusal],
    retry_after: int | None,
    by_caller: Descope,
    by_key: Descope,
    service: Service,
) -> None:
    """
    Facts are facts, everything else is a service that does not answer; it is asked once and its words stay there.
    """
    status, body, headers = answered

    async def answer(_request: web.Request) -> web.StreamResponse:
        if isinstance(body, str):
            return web.Response(status=status, text=body, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    service.answer = answer
    with structlog.testing.capture_logs() as logs:
        for descope, refusal, after in (
            (by_caller, own, None if own is DeniedByPolicy else retry_after),
            (by_key, managed, retry_after),
        ):
            with pytest.raises(refusal) as caught:
                await descope.fetch(KEY, caller=ADA, credential=JWT)
            assert refusal is type(caught.value)
            assert after == caught.value.retry_after
            assert "canary" not in caught.value.detail
            if refusal in (ConnectionRequired, ConnectionUnknown):
                assert "google-contacts" == caught.value.connection

    assert 2 == len(service.asked)
    assert "canary" not in repr(logs)
    assert len(logs) == [own, managed].count(TokenServiceUnavailable)


async def test_a_refused_management_key_is_told_to_the_operator(by_key: Descope, service: Service) -> None:
    """
    One line a minute says that the key is refused, whoever many callers meet it; the line does not hold the key.
    """

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(error("E011005"), status=401)

    service.answer = answer
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            with pytest.raises(TokenServiceUnavailable):
                await by_key.fetch(KEY, caller=ADA, credential=JWT)

    assert [("management_key_refused", 401)] == [(line["cause"], line["status"]) for line in logs]
    assert MANAGEMENT_KEY not in repr(logs) + repr(by_key) + repr(vars(type(by_key)))


async def test_a_service_that_is_not_there(client: OutboundClient) -> None:
    """
    No connection, no answer in readable form: the service does not answer.
    """
    descope = Descope(
        client,
        base_url="http://127.0.0.1:1",
        project="P1",
        management_key=None,
        clock=lambda: NOW,
        monotonic=lambda: 0.0,
    )
    with pytest.raises(TokenServiceUnavailable) as caught:
        await descope.fetch(KEY, caller=ADA, credential=JWT)

    assert JWT not in repr(caught.value) + repr(caught.value.__cause__)


async def test_a_connection_that_breaks_is_not_repeated(by_caller: Descope, service: Service) -> None:
    """
    A reset in the middle of the answer costs one question, not two.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    service.answer = answer
    with pytest.raises(TokenServiceUnavailable):
        await by_caller.fetch(KEY, caller=ADA, credential=JWT)

    assert 1 == len(service.asked)


async def test_replaces_by_what_is_there_already(by_caller: Descope, service: Service) -> None:
    """
    Where Descope holds another token than the rejected one by now, nothing is refreshed.
    """
    service.current = "T5"
    token = await by_caller.replace(KEY, rejected=ConnectionToken("tok1", "T1"), caller=ADA, credential=JWT)

    assert ("T5", False) == (token.access_token, token.refreshed)
    assert [False] == [asked.is_forced for asked in service.asked]


async def test_replaces_by_a_refresh(by_caller: Descope, service: Service) -> None:
    """
    Where Descope still holds the rejected token, a refresh is forced, and said so.
    """
    token = await by_caller.replace(KEY, rejected=ConnectionToken("tok1", "T1"), caller=ADA, credential=JWT)

    assert ("T2", True) == (token.access_token, token.refreshed)
    assert [False, True] == [asked.is_forced for asked in service.asked]


async def test_a_refresh_that_changes_nothing_is_no_refresh(by_caller: Descope, service: Service) -> None:
    """
    The same token after a forced refresh is handed back as it is: the data path lets the 401 pass.
    """
    service.is_stubborn = True
    token = await by_caller.replace(KEY, rejected=ConnectionToken("tok1", "T1"), caller=ADA, credential=JWT)

    assert ("T1", False) == (token.access_token, token.refreshed)


async def test_two_hundred_rejections_are_one_refresh(by_key: Descope, service: Service) -> None:
    """
    Callers that meet a 401 together share one replacement.
    """
    rejected = ConnectionToken("tok1", "T1")
    tokens = await asyncio.gather(
        *(by_key.replace(KEY, rejected=rejected, caller=ADA, credential=f"{JWT}{number}") for number in range(200))
    )

    assert {"T2"} == {token.access_token for token in tokens}
    assert (1, [False, True]) == (service.refreshes, [asked.is_forced for asked in service.asked])


async def test_callers_with_their_own_credentials_share_a_refresh(by_caller: Descope, service: Service) -> None:
    """
    Different JWTs of one user ask each for themselves, but only the first one's question ends in a refresh.
    """
    rejected = ConnectionToken("tok1", "T1")
    tokens = await asyncio.gather(
        *(by_caller.replace(KEY, rejected=rejected, caller=ADA, credential=f"{JWT}{number}") for number in range(10))
    )

    assert {"T2"} == {token.access_token for token in tokens}
    assert 1 == service.refreshes
    assert 10 == len({asked.authorization for asked in service.asked})


async def test_fetches_of_one_caller_are_one_question(by_caller: Descope, service: Service) -> None:
    """
    The same key and credential join one flight; another user's JWT or another key never does.
    """
    service.gate.clear()
    fetches = [
        asyncio.create_task(by_caller.fetch(key, caller=ADA, credential=credential))
        for key, credential in ((KEY, JWT), (KEY, JWT), (KEY, f"{JWT}2"), (KEY._replace(scopes=("a",)), JWT))
    ]
    await asyncio.sleep(0)
    service.gate.set()
    await asyncio.gather(*fetches)

    assert 3 == len(service.asked)


async def test_a_refresh_outlives_its_caller(by_caller: Descope, service: Service) -> None:
    """
    Who goes away cancels nothing: the refresh that was begun comes to its end, and close waits for it.
    """
    service.gate.clear()
    rejected = ConnectionToken("tok1", "T1")
    call = asyncio.create_task(by_caller.replace(KEY, rejected=rejected, caller=ADA, credential=JWT))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    service.gate.set()
    await by_caller.close()

    assert 1 == service.refreshes


async def test_an_answer_holds_no_secret_in_its_repr(by_caller: Descope, service: Service) -> None:
    """
    A token can be logged, and the refresh token that came unasked is nowhere.
    """
    service.token = {"accessToken": "canary-access-token"}
    token = await by_caller.fetch(KEY, caller=ADA, credential=JWT)

    assert "canary" not in repr(token)
    assert not any("canary-refresh" in str(getattr(token, name)) for name in ConnectionToken.__slots__)


AWAY = {"502": 502, "503": 503, "504": 504}


@pytest.mark.parametrize("status", AWAY.values(), ids=AWAY.keys())
async def test_a_service_that_is_away_is_left_alone_and_found_again(
    status: int, client: OutboundClient, service: Service
) -> None:
    """
    After five failures in a row it is asked by one probe in five seconds, and callers are refused at once; one success
    lets everyone through, without a restart.
    """
    moment = [0.0]
    descope = Descope(
        client,
        base_url=service.url,
        project="P1",
        management_key=MANAGEMENT_KEY,
        clock=lambda: NOW,
        monotonic=lambda: moment[0],
    )

    async def away(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async def refused() -> int | None:
        with pytest.raises(TokenServiceUnavailable) as caught:
            await descope.fetch(KEY, caller=ADA, credential=JWT)
        return caught.value.retry_after

    service.answer = away
    with structlog.testing.capture_logs() as logs:
        waits = [await refused() for _ in range(20)]
    asked = [len(service.asked)]
    moment[0] += 5
    waits += [await refused() for _ in range(20)]
    asked.append(len(service.asked))
    moment[0] += 5
    service.answer = None
    tokens = [await descope.fetch(KEY, caller=ADA, credential=JWT) for _ in range(3)]

    assert ([5, 6], {5}) == (asked, set(waits))
    assert {"T1"} == {token.access_token for token in tokens}
    assert ["descope_unavailable", "descope_paused"] == sorted((line["event"] for line in logs), reverse=True)


async def test_only_a_service_that_is_away_is_left_alone(client: OutboundClient, service: Service) -> None:
    """
    A broken connection counts as a failure; a 500 about one token does not keep the others from theirs.
    """

    async def broken(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def failing(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    for answer, asked in ((failing, 20), (broken, 5)):
        descope = Descope(
            client,
            base_url=service.url,
            project="P1",
            management_key=MANAGEMENT_KEY,
            clock=lambda: NOW,
            monotonic=lambda: 0.0,
        )
        service.answer = answer
        service.asked.clear()
        for _ in range(20):
            with pytest.raises(TokenServiceUnavailable):
                await descope.fetch(KEY, caller=ADA, credential=JWT)

        assert asked == len(service.asked)
