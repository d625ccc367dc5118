"""Uploads, batches, API keys and deletes: what they change, and that a malformed request changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken
from gateway.vault.wire import ApiError, read_message, read_object
from gateway.vault.wire_tokens import BatchUserToken, read_batch
from tests.vault.api_server import Api, serve
from tests.vault.conftest import House

OUTBOUND = "/v1/mgmt/outbound"
UPLOAD = f"{OUTBOUND}/app/user/oauthtoken/upload"
BATCH = f"{OUTBOUND}/app/user/oauthtoken/batch/upload"
TENANT_BATCH = f"{OUTBOUND}/app/tenant/oauthtoken/batch/upload"
API_KEY = f"{OUTBOUND}/app/user/apikey/upload"
TENANT_API_KEY = f"{OUTBOUND}/app/tenant/apikey/upload"
HELD = f"{OUTBOUND}/apps-with-user-token"
BY_USER = f"{OUTBOUND}/user/tokens"
BY_ID = f"{OUTBOUND}/token"
ALICE = {"appId": "contacts", "userId": "alice"}


@pytest.fixture
async def api(house: House, vault: Vault) -> AsyncIterator[Api]:
    """A running token API; alice is connected, and `keys` holds API keys."""
    await house.grant(vault)
    await vault.connections.create(replace(house.connection(), id="keys", name="Keys", kind="apikey"))
    async with serve(house, vault) as api:
        yield api


def rows(api: Api) -> list[tuple[Any, ...]]:
    """Everything that is stored about connections and tokens."""
    statements = ("SELECT * FROM tokens ORDER BY id", "SELECT * FROM connections ORDER BY id")
    return [tuple(row) for statement in statements for row in api.house.execute(statement)]


MALFORMED: dict[str, tuple[str, str, Any, int, str]] = {
    "an upload without a token": ("POST", UPLOAD, ALICE, 400, "E011002"),
    "an upload of a number": ("POST", UPLOAD, ALICE | {"accessToken": 7}, 400, "E011004"),
    "an upload to API keys": ("POST", UPLOAD, ALICE | {"appId": "keys", "accessToken": "x"}, 400, "E011004"),
    "an upload to nothing": ("POST", UPLOAD, ALICE | {"appId": "nothing", "accessToken": "x"}, 404, "E151002"),
    "a verification without a refresh token": (
        "POST", UPLOAD, ALICE | {"accessToken": "x", "verifyRefresh": True}, 400, "E011004",
    ),
    "a batch without tokens": ("POST", BATCH, {}, 400, "E011003"),
    "a batch that is an object": ("POST", BATCH, {"tokens": {}}, 400, "E011004"),
    "a batch of strings": ("POST", BATCH, {"tokens": ["x"]}, 400, "E011004"),
    "a batch too large": ("POST", BATCH, {"tokens": [{}] * 501}, 400, "E011004"),
    "an API key that is missing": ("POST", API_KEY, {"appId": "keys", "userId": "alice"}, 400, "E011003"),
    "an API key for OAuth": ("POST", API_KEY, ALICE | {"apiKey": "k"}, 400, "E011004"),
    "an API key with a line break": ("POST", API_KEY, ALICE | {"appId": "keys", "apiKey": "k\n"}, 400, "E011004"),
    "a tenant's API key without tenant": ("POST", TENANT_API_KEY, {"appId": "keys", "apiKey": "k"}, 400, "E011003"),
    "a delete of nobody": ("DELETE", BY_USER, None, 400, "E011002"),
    "a delete of undefined": ("DELETE", f"{BY_USER}?appId=undefined&userId=undefined", None, 400, "E011002"),
    "a delete of nothing": ("DELETE", f"{BY_USER}?appId=&userId=", None, 400, "E011002"),
    "a delete said twice": ("DELETE", f"{BY_USER}?userId=alice&userId=bob", None, 400, "E011004"),
    "a delete of a control character": ("DELETE", f"{BY_USER}?userId=%00", None, 400, "E011004"),
    "a delete without an id": ("DELETE", BY_ID, None, 400, "E011003"),
    "a delete of an undefined id": ("DELETE", f"{BY_ID}?id=undefined", None, 400, "E011003"),
    "a delete of an id that is none": ("DELETE", f"{BY_ID}?id=a%20b", None, 400, "E011004"),
    "a delete of an id that is not there": ("DELETE", f"{BY_ID}?id=abc", None, 404, "E111504"),
    "nobody's apps": ("GET", HELD, None, 400, "E011003"),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize(("method", "path", "body", "status", "code"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_malformed_changes_nothing(
    api: Api, method: str, path: str, body: Any, status: int, code: str
) -> None:
    """Each gets its error, and every row is as it was."""
    before = rows(api)
    answered, answer, _ = await api.call(method, path, body)
    assert (status, code) == (answered, answer["errorCode"])
    assert before == rows(api)
    assert [event for event, _ in api.recorded] in ([], ["change_intent", "change_refused"])


async def test_batches_are_stored_whole_or_not_at_all(api: Api) -> None:
    """One wrong token: all failures are told with status 200, and nothing is stored."""
    good = {"appId": "contacts", "userId": "bob", "accessToken": "CANARY"}
    before = rows(api)
    wrong = [
        {"appId": "contacts", "userId": "erin"},
        {"appId": "nothing", "userId": "erin", "accessToken": "x"},
        {"appId": "keys", "userId": "erin", "accessToken": "x"},
        {"appId": "contacts", "userId": 7, "accessToken": "x"},
        good,
    ]
    status, answer, _ = await api.call("POST", BATCH, {"tokens": [good, *wrong]})
    found = [(each["appId"], each["userId"], each["errorCode"]) for each in answer["failures"]]

    assert 200 == status
    assert [
        ("contacts", "", "E011004"), ("contacts", "bob", "E011004"), ("contacts", "erin", "E011002"),
        ("keys", "erin", "E011004"), ("nothing", "erin", "E151002"),
    ] == sorted(found)  # fmt: skip
    assert not any("tenantId" in each for each in answer["failures"])
    assert before == rows(api)
    assert "CANARY" not in str(answer) + str(api.recorded)
    assert (200, {"failures": []}) == (await api.call("POST", BATCH, {"tokens": [good]}))[:2]
    assert len(before) + 1 == len(rows(api))
    _, answer, _ = await api.call("POST", TENANT_BATCH, {"tokens": [{"appId": "contacts"}]})
    assert {"appId", "tenantId", "errorCode", "reason"} == set(answer["failures"][0])


async def test_batch_with_one_refresh_token_twice_is_a_failure(api: Api) -> None:
    """The later of the two is named with status 200, in words without the token, and nothing is stored."""
    before = rows(api)
    token = {"appId": "contacts", "userId": "bob", "refreshToken": "CANARY"}
    status, answer, _ = await api.call("POST", BATCH, {"tokens": [token, token | {"scopes": ["a"]}]})

    assert (200, before) == (status, rows(api))
    assert [("contacts", "bob", "E011004")] == [(f["appId"], f["userId"], f["errorCode"]) for f in answer["failures"]]
    assert "CANARY" not in str(answer) + str(api.recorded)


async def test_deletes_by_user_leave_the_others(api: Api) -> None:
    """By app only users' tokens go; a tenant's goes by id; deleting nothing is no error; each is recorded."""
    for body in ({"userId": "bob"}, {"userId": "bob", "tenantId": "acme"}):
        await api.call("POST", UPLOAD, {"appId": "contacts", "accessToken": "x"} | body)
    await api.call("POST", TENANT_BATCH, {"tokens": [{"appId": "contacts", "tenantId": "acme", "accessToken": "x"}]})

    statuses = [
        (await api.call("DELETE", f"{BY_USER}?userId=nobody&appId=undefined"))[0],
        (await api.call("DELETE", f"{BY_USER}?userId=bob&appId=contacts"))[0],
        (await api.call("DELETE", f"{BY_USER}?appId=contacts"))[0],
    ]
    deleted = [fields["deleted"] for event, fields in api.recorded if event == "tokens_deleted"]

    assert ([200, 200, 200], [0, 2, 1]) == (statuses, deleted)
    _, tenants, _ = await api.call(
        "POST", f"{OUTBOUND}/app/tenant/token/latest", {"appId": "contacts", "tenantId": "acme"}
    )
    assert 200 == (await api.call("DELETE", f"{BY_ID}?id={tenants['token']['id']}"))[0]


async def test_apps_are_those_with_a_valid_token(api: Api, vault: Vault) -> None:
    """Expired without a refresh token, and dead, do not count; a tenant's level is asked for with the tenant."""
    key = {"appId": "keys", "userId": "alice", "apiKey": "k"}
    await api.call("POST", API_KEY, key)
    await api.call("POST", API_KEY, key | {"tenantId": "acme", "userId": "bob"})
    soon = int(api.house.clock.now) + 10
    await api.call(
        "POST", UPLOAD, {"appId": "contacts", "userId": "carol", "accessToken": "x", "accessTokenExpiry": soon}
    )

    async def held(query: str) -> list[str]:
        found: list[str] = (await api.call("GET", f"{HELD}?{query}"))[1]["appIds"]
        return found

    assert ["contacts", "keys"] == await held("userId=alice")
    assert ([], ["keys"]) == (await held("userId=bob"), await held("userId=bob&tenantId=acme"))
    assert ["contacts"] == await held("userId=carol")
    api.house.clock.now += 20
    assert [] == await held("userId=carol")


async def test_revocation_is_tried_and_told(api: Api, vault: Vault) -> None:
    """Deleting revokes where the connection says how; a provider that fails keeps nothing from being deleted."""
    asked: list[str] = []

    async def revoke(token: StoredToken) -> bool:
        asked.append(token.access_token or "")
        if len(asked) > 1:
            raise OSError
        return True

    await vault.connections.update("contacts", lambda it: replace(it, revocation_url="https://p.example/r"))
    vault.removal.revoke = revoke
    await api.call("POST", UPLOAD, {"appId": "contacts", "userId": "bob", "accessToken": "AT-bob"})
    for user in ("alice", "bob"):
        assert 200 == (await api.call("DELETE", f"{BY_USER}?userId={user}"))[0]

    told = [(fields["revoked"], fields["unrevoked"]) for event, fields in api.recorded if event == "tokens_deleted"]
    assert (["AT-alice-0", "AT-bob"], [(1, 0), (0, 1)]) == (asked, told)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(["appId", "userId", "tenantId", "accessToken", "refreshToken", "scopes", "accessTokenExpiry"])


@given(st.lists(st.dictionaries(FIELDS | st.text(), JSON), max_size=4))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_batch_is_read_or_refused(items: list[dict[str, Any]]) -> None:
    """Whatever a batch holds: each token is read or is a failure, and nothing else is raised."""
    drafts, failures = read_batch(BatchUserToken, items)
    assert len(items) == len(drafts) + len(failures)
    for item in items:
        try:
            read_message(BatchUserToken, item)
        except ApiError as error:
            assert 400 == error.kind.status


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_body_is_an_object_or_malformed(body: bytes) -> None:
    """Whatever bytes come: a JSON object, or the one error."""
    try:
        assert isinstance(read_object(body), dict)
    except ApiError as error:
        assert "E011001" == error.kind.code
