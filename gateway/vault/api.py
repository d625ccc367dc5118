"""
The token API: Descope's outbound-application endpoints, answered from the vault. This is its edge.

Rules (descope-contract.md):
1. Strangers learn nothing: without a valid credential every path answers 401, but the two that are public: the issuers'
   keys (row 24), and the OpenAPI document, which is the same for every gateway.
2. A key is verified afresh, not from memory, for whatever changes something. An issuer's required scope is asked for
   everywhere but where a user connects: a session JWT has none, and gets nothing but a link there.
3. Every answer on every status is a JSON object, and not to be stored. Doubled slashes are collapsed; nothing is ever
   redirected.

`endpoints.py` says which requests there are, and who may make them; the `endpoints_….py` beside it answer them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from typing import Any

import orjson
import structlog
from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from gateway.access.keys import KeyRing
from gateway.access.policy import PolicySet
from gateway.errors import ConnectionRequired, ConnectionUnknown, Refusal
from gateway.models import Caller
from gateway.vault import openapi, wire
from gateway.vault.calls import (
    Call,
    Connecting,
    Endpoint,
    Identifies,
    PublishesKeys,
    TokenApi,
)
from gateway.vault.endpoints import ENDPOINTS, PATTERNS
from gateway.vault.record import Record
from gateway.vault.sealing import SealBroken
from gateway.vault.service import Vault
from gateway.vault.wire import ApiError

MAX_BODY_BYTES = 1_048_576
BODY_SECONDS = 30.0  # how long a caller may take to send 1 MiB
RETRY_SECONDS = 5
SLASHES = re.compile("/+")
NOBODY = Caller(kind="jwt", user=None)  # who asks at a public endpoint

log = structlog.get_logger()


def create_app(
    vault: Vault,
    identity: Identifies,
    keyring: KeyRing,
    policies: PolicySet,
    *,
    project: str,
    record: Record,
    random_bytes: Callable[[int], bytes],
    issuers: PublishesKeys | None = None,
    connecting: Connecting | None = None,
) -> web.Application:
    """
    Return the token API as an application, to be served by its own listener.

    *project* is the id that callers put before their credential. Without *issuers* no keys are published; without
    *connecting* rows 20 and 21 answer 404.
    """
    api = TokenApi(
        vault=vault,
        identity=identity,
        keyring=keyring,
        policies=policies,
        project=project,
        record=record,
        random_bytes=random_bytes,
        issuers=issuers,
        connecting=connecting,
    )
    # Made when it is first asked for: no start waits for the 47 ms. Not in a thread: before pydantic 2.14, a message
    # that another thread is building (`wire.Message`) can be read as the class above its own.
    described = cache(partial(openapi.document, ENDPOINTS))

    async def answer(request: web.Request) -> web.StreamResponse:
        path = SLASHES.sub("/", request.rel_url.raw_path)
        if path == openapi.PATH and request.method == "GET":
            return json_answer(200, described())
        return json_answer(200, await _handle(api, request, path))

    app = web.Application(middlewares=[_flat_errors], client_max_size=MAX_BODY_BYTES)
    app.router.add_route("*", r"/{tail:[\s\S]*}", answer)  # a line feed, too
    return app


async def _handle(api: TokenApi, request: web.Request, path: str) -> Mapping[str, object]:
    try:
        found, refused = _route(request.method, path), None
    except ApiError as exc:
        found, refused = None, exc
    if found is not None and found[0].credential == "public":
        return await found[0].handle(Call(api, NOBODY, {}, found[1]))
    requires_scope = found is None or found[0].credential != "caller"
    caller, credential = await _authenticate(api, request, requires_scope=requires_scope)
    if found is None:
        raise refused or ApiError(wire.NOT_FOUND)  # not before: strangers do not learn which paths there are
    endpoint, params = found
    _refuse_kind(endpoint, caller)
    if endpoint.is_change:
        await api.keyring.verify(credential)
    content: dict[str, Any] = {}
    if endpoint.request is not None:
        malformed = wire.FETCH_METHOD if endpoint.is_fetch else wire.MALFORMED
        content = wire.read_object(await _read(request, malformed), malformed=malformed)
    elif endpoint.query is not None:
        content = wire.read_query(request.rel_url.raw_query_string)
    call = Call(api, caller, content, params, id=api.random_bytes(8).hex())
    return await (_change(endpoint, call) if endpoint.is_change else endpoint.handle(call))


async def _change(endpoint: Endpoint, call: Call) -> Mapping[str, object]:
    """Answer a request that changes something: recorded before, and where it changes nothing, that too."""
    call.note("change_intent", change=endpoint.name)
    try:
        return await endpoint.handle(call)
    except ApiError as exc:
        call.note_done("change_refused", change=endpoint.name, error=exc.kind.code)
        raise
    except Exception as exc:
        call.note_done("change_refused", change=endpoint.name, error=type(exc).__name__)
        raise


def _refuse_kind(endpoint: Endpoint, caller: Caller) -> None:
    """Do nothing where this kind of caller may come here at all."""
    if endpoint.credential == "management" and caller.kind != "management":
        raise ApiError(wire.FORBIDDEN, "This endpoint takes a management key.")
    if endpoint.credential == "caller" and caller.kind != "jwt":
        raise ApiError(wire.FORBIDDEN, "This endpoint takes the access token or session JWT of whoever connects.")


async def _authenticate(api: TokenApi, request: web.Request, *, requires_scope: bool) -> tuple[Caller, str]:
    """Return the caller of `Authorization: Bearer <project>:<credential>`, and the credential."""
    values = request.headers.getall("Authorization", [])
    scheme, _, value = (values[0] if len(values) == 1 else "").partition(" ")
    project, _, rest = value.strip().partition(":")
    # The SDKs append an authentication management key as a third part; neither keys nor JWTs hold a colon.
    credential = rest.partition(":")[0]
    if scheme.lower() != "bearer" or project != api.project or not credential:
        raise ApiError(wire.UNAUTHORIZED, "Send Authorization: Bearer <project id>:<management key or access token>.")
    return await api.identity.identify(credential, requires_scope=requires_scope), credential


def _route(method: str, path: str) -> tuple[Endpoint, Mapping[str, str]]:
    there = [(endpoint, match) for endpoint, pattern in PATTERNS if (match := pattern.fullmatch(path)) is not None]
    if not there:
        raise ApiError(wire.NOT_FOUND, "There is no such endpoint.")
    for endpoint, match in there:
        if endpoint.method == method:
            return endpoint, match.groupdict()
    if any(endpoint.is_fetch for endpoint, _ in there):
        raise ApiError(wire.FETCH_METHOD, "This endpoint takes POST.")
    raise ApiError(wire.METHOD, allow=", ".join(sorted({endpoint.method for endpoint, _ in there})))


async def _read(request: web.Request, malformed: wire.ErrorKind) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as exc:
        raise ApiError(wire.TOO_SLOW) from exc
    except web.HTTPRequestEntityTooLarge as exc:
        raise ApiError(wire.TOO_LARGE, f"A body may have {MAX_BODY_BYTES} bytes.") from exc
    except (web.RequestPayloadError, ValueError) as exc:
        raise ApiError(malformed, "The body cannot be read.") from exc


@web.middleware
async def _flat_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn whatever goes wrong into a flat JSON error, here and nowhere else (rule 4)."""
    try:
        return await handler(request)
    except ApiError as exc:
        error = exc
    except Refusal as exc:
        error = _of_refusal(exc)
    except web.HTTPException as exc:
        error = ApiError(wire.METHOD if exc.status == 405 else wire.NOT_FOUND)
    except SealBroken as exc:
        log.critical("seal_broken", reason=str(exc))
        error = ApiError(wire.INTERNAL)
    except (SQLAlchemyError, OSError) as exc:
        log.critical("token_api_database_failed", error=type(exc).__name__)
        error = ApiError(wire.UNAVAILABLE, retry_after=RETRY_SECONDS)
    except Exception as exc:  # what we did not think of is an answer, too, and tells nothing to the caller
        log.critical("token_api_broke", error=type(exc).__name__, at=_place(exc))
        error = ApiError(wire.INTERNAL)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.allow:
        headers["Allow"] = error.allow
    answer = json_answer(error.kind.status, error.body(), headers)
    if error.kind in (wire.TOO_LARGE, wire.TOO_SLOW) or request.content.exception() is not None:
        answer.force_close()  # the rest of the body is not waited for, so nothing else can follow on this connection
    return answer


def _of_refusal(refusal: Refusal) -> ApiError:
    if isinstance(refusal, ConnectionUnknown):  # its own text is about a route, and who calls here names an app
        return ApiError(wire.TOKEN_NOT_FOUND, "There is no connection of this appId.")
    if isinstance(refusal, ConnectionRequired):
        return ApiError(wire.TOKEN_NOT_FOUND, refusal.detail)
    if refusal.status == 401:
        return ApiError(wire.UNAUTHORIZED)
    if refusal.status == 503:
        return ApiError(wire.UNAVAILABLE, refusal.detail, retry_after=refusal.retry_after or RETRY_SECONDS)
    if refusal.status == 429:
        return ApiError(wire.RATE_LIMITED, refusal.detail, retry_after=refusal.retry_after or RETRY_SECONDS)
    return ApiError(wire.FORBIDDEN if refusal.status == 403 else wire.INVALID, refusal.detail)


def json_answer(status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> web.Response:
    """Return *body* as the API sends everything: JSON, not to be stored."""
    fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "connection-gateway"}
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json", headers=fixed | dict(headers or {})
    )


def _place(error: BaseException) -> str:
    """Where *error* was raised: file and line, without the values that a traceback's text may hold."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
