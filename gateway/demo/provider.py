"""
A demo OAuth provider: real authorization code with PKCE, refresh with rotation, revocation, metadata. Two users.

Rules:
1. Its messages are those of RFC 6749, 7009, 7636, 8414 and 9207; what a grant is worth, `grants.py` decides.
2. Its login page asks for no password: it approves the user that `login_hint` names, or shows a button for each.
3. An error is sent to the redirect URI only when client and redirect URI are known (RFC 6749 section 4.1.2.1).
4. Its issuer is the origin at which it is called: it listens on loopback, on whatever port there was.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_plus, urlencode

from aiohttp import web

from gateway.demo.grants import SAID_SECONDS, Counts, GrantInvalid, Grants, Issued

USERS = ("ada@example.com", "grace@example.com")
CONTACTS_SCOPE = "https://www.googleapis.com/auth/contacts.readonly"
SCOPES = ("openid", CONTACTS_SCOPE)
TOKEN_LIFETIME_SECONDS = 20.0
MAX_FORM_BYTES = 16_384

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Demo provider</title>
<style>body{{font:1.1rem system-ui;max-width:26rem;margin:4rem auto;padding:0 1rem}}
a{{display:block;padding:.8rem 1rem;margin:.6rem 0;border:1px solid #888;border-radius:.5rem}}</style>
<h1>Demo provider</h1><p>Who are you? No password: this is a demo.</p>{choices}</html>
"""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The one client that the provider knows."""

    client_id: str
    client_secret: str = field(repr=False)


class OAuthError(Exception):
    """An answer of RFC 6749 section 5.2: *code* is its `error`."""

    def __init__(self, code: str, status: int = 400) -> None:
        self.code = code
        self.status = status
        super().__init__(code)


class DemoProvider:
    """
    The provider as an application to be served (`app`), and a window into it (`is_live`, `counts`).

    *clock* gives POSIX seconds, *random_token* an unguessable URL-safe text; *redirect_uris* are matched exactly.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random_token: Callable[[], str],
        client: ClientCredentials,
        redirect_uris: tuple[str, ...],
        token_lifetime_seconds: float = TOKEN_LIFETIME_SECONDS,
    ) -> None:
        self._client = client
        self._redirect_uris = redirect_uris
        self.grants = Grants(clock=clock, random_token=random_token, token_lifetime_seconds=token_lifetime_seconds)
        self.app = web.Application(client_max_size=MAX_FORM_BYTES)
        self.app.add_routes(
            [
                web.get("/.well-known/oauth-authorization-server", self._metadata),
                web.get("/authorize", self._authorize),
                web.post("/token", self._token),
                web.post("/revoke", self._revoke),
            ]
        )

    def is_live(self, access_token: str) -> str | None:
        """Return whose token *access_token* is while it lives, else None."""
        return self.grants.user_of(access_token)

    @property
    def counts(self) -> Counts:
        """What the provider has done so far."""
        return self.grants.counts

    async def _metadata(self, request: web.Request) -> web.Response:
        issuer = str(request.url.origin())
        return web.json_response(
            {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "revocation_endpoint": f"{issuer}/revoke",
                "scopes_supported": list(SCOPES),
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = request.query
        redirect_uri = asked.get("redirect_uri", "")
        if asked.get("client_id") != self._client.client_id or redirect_uri not in self._redirect_uris:
            raise web.HTTPBadRequest(text="Unknown client or redirect URI.\n")
        try:
            scope = _checked_scope(asked)
        except OAuthError as error:
            return _back(request, redirect_uri, error=error.code)
        user = asked.get("login_hint")
        if user not in USERS:
            return _login_page(request)
        code = self.grants.authorize(
            user=user, scope=scope, redirect_uri=redirect_uri, challenge=asked["code_challenge"]
        )
        return _back(request, redirect_uri, code=code)

    async def _token(self, request: web.Request) -> web.Response:
        try:
            form = await _form(request)
            self._authenticate(request, form)
            issued = self._exchange(form)
        except OAuthError as error:
            return _refused(error)
        except GrantInvalid:
            return _refused(OAuthError("invalid_grant"))
        return web.json_response(
            {
                "access_token": issued.access_token,
                "token_type": "Bearer",
                "expires_in": SAID_SECONDS,
                "refresh_token": issued.refresh_token,
                "scope": issued.scope,
            },
            headers={"Cache-Control": "no-store"},
        )

    async def _revoke(self, request: web.Request) -> web.Response:
        try:
            form = await _form(request)
            self._authenticate(request, form)
        except OAuthError as error:
            return _refused(error)
        self.grants.revoke(form.get("token", ""))
        return web.Response()

    def _exchange(self, form: Mapping[str, str]) -> Issued:
        match form.get("grant_type"):
            case "authorization_code":
                return self.grants.exchange(
                    form.get("code", ""),
                    redirect_uri=form.get("redirect_uri", ""),
                    verifier=form.get("code_verifier", ""),
                )
            case "refresh_token":
                return self.grants.refresh(form.get("refresh_token", ""))
            case None:
                raise OAuthError("invalid_request")
            case _:
                raise OAuthError("unsupported_grant_type")

    def _authenticate(self, request: web.Request, form: Mapping[str, str]) -> None:
        """Check the client's credentials, from Basic or the form, never from both (RFC 6749 section 2.3)."""
        authorization = request.headers.get("Authorization")
        if authorization is not None and "client_secret" in form:
            raise OAuthError("invalid_request")
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization is not None:
            client_id, secret = _basic(authorization)
        is_ours = client_id == self._client.client_id
        if not is_ours or not hmac.compare_digest(secret.encode(), self._client.client_secret.encode()):
            raise OAuthError("invalid_client", 401)


def _checked_scope(asked: Mapping[str, str]) -> str:
    """Return the scope of an authorization request, or raise the OAuthError that goes to the redirect URI."""
    if asked.get("response_type") != "code":
        raise OAuthError("unsupported_response_type")
    if asked.get("code_challenge_method") != "S256" or not asked.get("code_challenge", "").isascii():
        raise OAuthError("invalid_request")
    if not asked.get("code_challenge"):
        raise OAuthError("invalid_request")
    scopes = asked.get("scope", CONTACTS_SCOPE).split()
    if not set(scopes) <= set(SCOPES):
        raise OAuthError("invalid_scope")
    return " ".join(scopes)


def _basic(authorization: str) -> tuple[str, str]:
    """Return id and secret of HTTP Basic; both are form-encoded before (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise OAuthError("invalid_client", 401) from None
    client_id, colon, secret = text.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise OAuthError("invalid_client", 401)
    return unquote_plus(client_id), unquote_plus(secret)


async def _form(request: web.Request) -> dict[str, str]:
    """Return the form; a parameter that came twice is an error (RFC 6749 section 3.2)."""
    try:
        posted = await request.post()
    except (ValueError, LookupError):  # bytes of no encoding, an encoding of no bytes
        raise OAuthError("invalid_request") from None
    form = {name: value for name, value in posted.items() if isinstance(value, str)}
    if len(form) != len(posted):
        raise OAuthError("invalid_request")
    return form


def _refused(error: OAuthError) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="demo provider"'
    return web.json_response({"error": error.code}, status=error.status, headers=headers)


def _back(request: web.Request, redirect_uri: str, **answer: str) -> web.Response:
    """Send the browser back with code or error, state, and who answers (RFC 9207)."""
    answer["iss"] = str(request.url.origin())
    if "state" in request.query:
        answer["state"] = request.query["state"]
    joint = "&" if "?" in redirect_uri else "?"
    return web.Response(status=302, headers={"Location": f"{redirect_uri}{joint}{urlencode(answer)}"})


def _login_page(request: web.Request) -> web.Response:
    """Return the page with a link for each user: this very URL with their login_hint."""
    links = (
        f'<a href="{html.escape(str(request.rel_url.update_query(login_hint=user)))}">{html.escape(user)}</a>'
        for user in USERS
    )
    return web.Response(
        text=PAGE.format(choices="".join(links)),
        content_type="text/html",
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        },
    )
