"""
A contacts API in the shape of Google's People API, for the demo: who asks with a dead token gets 401.

Rules:
1. `GET /v1/people/me` and `GET /v1/people/me/connections`; `personFields` is required and chooses what is shown.
2. Pages as there: `pageSize` from 1 to 1000 (default 100), `pageToken` from the page before, of the same user.
3. Errors as there: `{"error": {"code", "message", "status"}}`; 401 carries RFC 6750's challenge.

Source: developers.google.com/people/api/rest/v1/people.connections/list.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.demo.people import CONTACTS, OWNERS, Person

FIELDS = ("names", "emailAddresses", "phoneNumbers", "organizations", "metadata")
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class ApiError(Exception):
    """An answer other than 200: HTTP status, Google's word for it, and a sentence."""

    def __init__(self, code: int, status: str, message: str) -> None:
        self.code = code
        self.status = status
        self.message = message
        super().__init__(status)


class ContactsApi:
    """The API as an application to be served; *is_live* tells whose access token a text is. `statuses` counts."""

    def __init__(self, is_live: Callable[[str], str | None]) -> None:
        self._is_live = is_live
        self.statuses: Counter[int] = Counter()
        self.app = web.Application(middlewares=[self._answer])
        self.app.add_routes(
            [web.get("/v1/people/me", self._me), web.get("/v1/people/me/connections", self._connections)]
        )

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn errors into Google's form, and count."""
        try:
            response = await handler(request)
        except ApiError as error:
            response = _error(error)
        except web.HTTPException as error:
            response = _error(ApiError(error.status, "NOT_FOUND", "There is no such method in this API."))
        response.headers["Server"] = "demo contacts API"  # not the version of what it runs on
        self.statuses[response.status] += 1
        return response

    async def _me(self, request: web.Request) -> web.Response:
        user = self._user(request)
        return _json({**_person(OWNERS[user], _fields(request)), "resourceName": "people/me"})

    async def _connections(self, request: web.Request) -> web.Response:
        user = self._user(request)
        fields = _fields(request)
        size = _page_size(request)
        contacts = CONTACTS[user]
        start = _page_start(request, user, len(contacts))
        answer: dict[str, Any] = {"connections": [_person(each, fields) for each in contacts[start : start + size]]}
        if start + size < len(contacts):
            answer["nextPageToken"] = _page_token(user, start + size)
        return _json({**answer, "totalPeople": len(contacts), "totalItems": len(contacts)})

    def _user(self, request: web.Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        user = self._is_live(token) if scheme.lower() == "bearer" else None
        if user is None:
            raise ApiError(401, "UNAUTHENTICATED", "The access token is missing, unknown, or has died.")
        return user


def _fields(request: web.Request) -> list[str]:
    asked = [name.strip() for name in request.query.get("personFields", "").split(",") if name.strip()]
    if not asked or not set(asked) <= set(FIELDS):
        raise ApiError(400, "INVALID_ARGUMENT", f"personFields is required. It takes some of: {', '.join(FIELDS)}.")
    return asked


def _page_size(request: web.Request) -> int:
    text = request.query.get("pageSize", str(DEFAULT_PAGE_SIZE))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGE_SIZE):
        raise ApiError(400, "INVALID_ARGUMENT", f"pageSize must be from 1 to {MAX_PAGE_SIZE}.")
    return int(text)


def _page_token(user: str, start: int) -> str:
    return hashlib.sha256(f"{user} {start}".encode()).hexdigest()[:16]


def _page_start(request: web.Request, user: str, total: int) -> int:
    """Return the index that the page token stands for; there are few, so all of them are tried."""
    token = request.query.get("pageToken")
    if not token:
        return 0
    for start in range(1, total):
        if _page_token(user, start) == token:
            return start
    raise ApiError(400, "INVALID_ARGUMENT", "pageToken is not one of this list.")


def _person(person: Person, fields: list[str]) -> dict[str, Any]:
    name = f"{person.given_name} {person.family_name}"
    number = hashlib.sha256(person.email.encode()).hexdigest()
    everything: dict[str, Any] = {
        "names": [{"displayName": name, "givenName": person.given_name, "familyName": person.family_name}],
        "emailAddresses": [{"value": person.email, "type": "work"}],
        "phoneNumbers": [{"value": person.phone, "type": "work"}],
        "organizations": [{"name": person.organization, "current": True}],
        "metadata": {"objectType": "PERSON"},
    }
    shown = {field: everything[field] for field in FIELDS if field in fields}
    return {"resourceName": f"people/c{int(number[:12], 16)}", "etag": f"%{number[:10]}", **shown}


def _json(answer: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    text = json.dumps(answer, indent=2, ensure_ascii=False) + "\n"  # read by people, in a terminal
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


def _error(error: ApiError) -> web.Response:
    headers = {}
    if error.code == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="demo contacts", error="invalid_token"'
    body = {"error": {"code": error.code, "message": error.message, "status": error.status}}
    return _json(body, status=error.code, headers=headers)
