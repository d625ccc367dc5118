"""The token API on a real listener: who may do what, and that every answer is a flat JSON object."""

from __future__ import annotations

import base64
import gzip
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest

from gateway.vault.api import MAX_BODY_BYTES
from gateway.vault.service import Vault
from gateway.vault.stored_token import TokenDraft
from tests.vault.api_server import PROJECT, Api, serve
from tests.vault.conftest import House

pytestmark = pytest.mark.parametrize("engine", ["sqlite"])  # the rules are the wire's

LATEST = "/v1/mgmt/outbound/app/user/token/latest"
BY_SCOPES = "/v1/mgmt/outbound/app/user/token"
TENANT_LATEST = "/v1/mgmt/outbound/app/tenant/token/latest"
UPLOAD = "/v1/mgmt/outbound/app/user/oauthtoken/upload"
CREATE = "/v1/mgmt/outbound/app/create"
ALICE = {"appId": "contacts", "userId": "alice"}
ACME = {"appId": "contacts", "tenantId": "acme"}


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API; alice, alice in acme, bob and acme are connected."""
    await house.grant(vault)
    for user, tenant in (("alice", "acme"), ("bob", ""), ("", "acme"), ("", "other"), ("alice", "other")):
        await vault.tokens.put(TokenDraft("contacts", user, tenant, access_token=f"AT-{user}-{tenant}"))
    async with serve(house, vault) as api:
        yield api


def is_flat(status: int, body: dict[str, Any]) -> bool:
    """Whether an answer is what the SDKs can read: success, or a flat error with a code."""
    return status == 200 or {"errorCode", "errorDescription", "errorMessage"} == set(body)


async def test_token_is_handed_out_and_recorded(api: Api) -> None:
    """A management key fetches; the answer is not to be stored; the record says who, what, for whom, and no secret."""
    status, body, headers = await api.call("POST", LATEST, ALICE | {"options": None, "tenantId": None})

    assert (200, "AT-alice-0", "contacts", "alice") == (
        status,
        body["token"]["accessToken"],
        body["token"]["appId"],
        body["token"]["userId"],
    )
    assert "refreshToken" not in body["token"]
    assert "no-store" == headers["Cache-Control"]
    event, fields = api.recorded[-1]
    assert ("raw_token_fetched", "management", "alice") == (event, fields["caller"]["kind"], fields["subject"]["user"])
    assert "AT-" not in str(api.recorded)
    assert api.management_key not in str(api.recorded)


async def test_options_are_obeyed(api: Api) -> None:
    """forceRefresh asks the provider, withRefreshToken shows the refresh token."""
    _, body, _ = await api.call("POST", LATEST, ALICE | {"options": {"withRefreshToken": True, "forceRefresh": True}})

    assert ("AT-alice-1", "RT-alice-1") == (body["token"]["accessToken"], body["token"]["refreshToken"])
    assert body["token"]["lastRefreshTime"] == str(int(api.house.clock.now))


CREDENTIALS = {
    "none": None,
    "no credential": f"Bearer {PROJECT}",
    "an empty credential": f"Bearer {PROJECT}:",
    "another project": "Bearer other:{key}",
    "another scheme": f"Basic {base64.b64encode(b'acme:x').decode()}",
    "without the project": "Bearer {key}",
    "a key that is none": f"Bearer {PROJECT}:gwm_abc",
    "junk": f"Bearer {PROJECT}:\u00e9",
}


@pytest.mark.parametrize("value", CREDENTIALS.values(), ids=CREDENTIALS.keys())
async def test_strangers_learn_nothing(api: Api, value: str | None) -> None:
    """Without a valid credential every path answers the same 401."""
    headers = {} if value is None else {"Authorization": value.format(key=api.management_key)}
    answers = set()
    for path in (LATEST, CREATE, "/nothing", "/v1/mgmt/license", "/"):
        async with api.session.post(api.url + path, headers=headers, data=b"{") as response:
            answers.add((response.status, await response.text()))

    assert [401] == [status for status, _ in answers]


async def test_two_credentials_are_refused(api: Api) -> None:
    """Authorization sent twice is not a credential."""
    value = f"Bearer {PROJECT}:{api.management_key}"
    headers = [("Authorization", value), ("Authorization", value)]
    async with api.session.get(api.url + "/v1/mgmt/license", headers=headers) as response:
        assert 401 == response.status


async def test_stranger_with_a_line_feed_learns_nothing(api: Api) -> None:
    """A path that no pattern of the web framework fits is 401, as every other."""
    assert 401 == (await api.call("GET", "/v1/nothing%0Ax", credential="gwm_nobody"))[0]


async def test_third_part_of_the_bearer_is_ignored(api: Api) -> None:
    """The SDKs may append an authentication management key."""
    status, _, _ = await api.call("POST", LATEST, ALICE, credential=f"{api.access_token()}:some-auth-key")
    assert 200 == status


ANSWERS: dict[str, tuple[str, str, bytes | None, int, str]] = {
    "malformed JSON at a fetch": ("POST", LATEST, b"{", 500, "E011001"),
    "no body at a fetch": ("POST", LATEST, b"", 500, "E011001"),
    "a list at a fetch": ("POST", LATEST, b"[]", 500, "E011001"),
    "a wrong method at a fetch": ("GET", LATEST, None, 500, "E011001"),
    "a key twice at a fetch": ("POST", LATEST, b'{"appId": "contacts", "userId": "x", "userId": "y"}', 400, "E011001"),
    "a key twice elsewhere": ("POST", CREATE, b'{"name": "x", "name": "y"}', 400, "E011001"),
    "a query that is not UTF-8": ("GET", "/v1/mgmt/outbound/apps-with-user-token?userId=%ff", None, 400, "E011004"),
    "a delete that is not UTF-8": ("DELETE", "/v1/mgmt/outbound/user/tokens?userId=%ff", None, 400, "E011004"),
    "malformed JSON elsewhere": ("POST", CREATE, b"{", 400, "E011001"),
    "a wrong method elsewhere": ("PUT", CREATE, b"{}", 405, "E011008"),
    "a missing field": ("POST", LATEST, b"{}", 400, "E011003"),
    "no such token": ("POST", LATEST, b'{"appId": "contacts", "userId": "nobody"}', 404, "E111504"),
    "no such connection": ("POST", LATEST, b'{"appId": "nothing", "userId": "alice"}', 404, "E111504"),
    "other scopes": ("POST", BY_SCOPES, b'{"appId": "contacts", "userId": "alice", "scopes": ["x"]}', 404, "E111504"),
    "no such path": ("GET", "/v1/nothing", None, 404, "E011007"),
    "a path with a line feed": ("GET", "/v1/mgmt/outbound/app/a%0Ab", None, 404, "E151002"),
    "the root": ("GET", "/", None, 404, "E011007"),
    "no such app": ("GET", "/v1/mgmt/outbound/app/nothing", None, 404, "E151002"),
    "a strange method": ("PATCH", LATEST, None, 500, "E011001"),
    "a body too large": ("POST", CREATE, b" " * (MAX_BODY_BYTES + 1), 413, "E011010"),
    "an upload without tokens": ("POST", UPLOAD, b'{"appId": "contacts", "userId": "alice"}', 400, "E011002"),
    "an upload to no connection": (
        "POST",
        UPLOAD,
        b'{"appId": "nothing", "userId": "alice", "accessToken": "x"}',
        404,
        "E151002",
    ),
    "an id that is taken": ("POST", CREATE, b'{"id": "contacts", "name": "Other"}', 409, "E151001"),
    "a name that is taken": ("POST", CREATE, b'{"name": "Contacts"}', 409, "E151001"),
    "a URL that is none": ("POST", CREATE, b'{"name": "x", "tokenUrl": "x"}', 400, "E011004"),
}


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_errors_are_flat(api: Api, method: str, path: str, body: bytes | None, status: int, code: str) -> None:
    """Every error is flat JSON with the contract's code, and is not to be stored."""
    answered, answer, headers = await api.call(method, path, data=body if body is not None else b"")

    assert (status, code) == (answered, answer["errorCode"])
    assert is_flat(status, answer)
    assert "no-store" == headers["Cache-Control"]
    assert headers["Content-Type"].startswith("application/json")


async def test_expectations_and_encodings_are_answered_flat(api: Api) -> None:
    """An expectation nobody meets, and a body that is not what it says, get flat errors too."""
    authorization = {"Authorization": f"Bearer {PROJECT}:{api.management_key}"}
    for headers, data, expected in (
        ({"Expect": "magic"}, b"{}", 400),
        ({"Content-Encoding": "gzip"}, b"not gzip", 400),
        ({}, b"{", 400),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"{}"), 400),
    ):
        async with api.session.post(api.url + CREATE, headers=authorization | headers, data=BytesIO(data)) as response:
            answer = await response.json()
            assert (expected, True) == (response.status, is_flat(response.status, answer)), answer


async def test_doubled_slashes_are_collapsed(api: Api) -> None:
    """What a base URL with a slash at its end makes of a path is the same path; nothing is redirected."""
    for path in ("//v1/mgmt/license", "/v1//mgmt///license"):
        status, body, _ = await api.call("GET", path)
        assert (200, {"rateLimitTier": "tier1"}) == (status, body)


async def test_expired_and_not_refreshable_for_now_is_503(api: Api) -> None:
    """A passing failure says when to come back; a dead grant is 404 and says that the user must connect again."""
    api.house.provider.fault = 503
    api.house.clock.now += 3600
    key = api.management_key
    status, body, headers = await api.call("POST", LATEST, ALICE, credential=key)
    assert (503, True) == (status, is_flat(status, body))
    assert int(headers["Retry-After"]) > 0

    api.house.provider.fault = None
    api.house.provider.revoke("alice")
    api.house.clock.now += 3600
    status, body, _ = await api.call("POST", LATEST, ALICE, credential=key)
    assert (404, "E111504") == (status, body["errorCode"])
    assert "connected" in body["errorMessage"]


async def test_refused_verification_stores_nothing(api: Api, vault: Vault) -> None:
    """verifyRefresh with a refresh token that the provider refuses is 400, and the old token stays."""
    body = ALICE | {"refreshToken": "RT-nobody-0", "verifyRefresh": True, "scopes": ["read"]}
    status, answer, _ = await api.call("POST", UPLOAD, body)

    assert (400, True) == (status, is_flat(status, answer))
    _, fetched, _ = await api.call("POST", BY_SCOPES, ALICE | {"scopes": ["read"]})
    assert "AT-alice-0" == fetched["token"]["accessToken"]


async def test_secrets_do_not_come_back(api: Api) -> None:
    """A client secret is stored, and neither answered nor recorded."""
    status, body, _ = await api.call("POST", CREATE, {"name": "Mail", "clientId": "x", "clientSecret": "CANARY"})
    _, loaded, _ = await api.call("GET", f"/v1/mgmt/outbound/app/{body['app']['id']}")

    assert (200, body) == (status, loaded)
    assert "CANARY" not in str(body) + str(api.recorded)


async def test_nothing_happens_without_its_line(api: Api, house: House) -> None:
    """A record that takes nothing: no raw token is handed out, nothing is changed, and both are worth repeating."""
    api.recorded.clear()
    api.is_record_full = True
    upload = {"appId": "contacts", "userId": "newcomer", "accessToken": "CANARY"}

    fetched, answer, headers = await api.call("POST", LATEST, ALICE)
    uploaded, _, _ = await api.call("POST", "/v1/mgmt/outbound/app/user/oauthtoken/upload", upload)

    assert (503, 503, "E011013") == (fetched, uploaded, answer["errorCode"])
    assert headers["Retry-After"].isdecimal()
    assert "T-alice" not in str(answer)
    assert [] == house.execute("SELECT id FROM tokens WHERE user_id = 'newcomer'")
