"""
A small, strict OAuth provider on a real socket: rotation, reuse detection, and faults on demand.

It records every exchange it sees; `accepts` tells whether an access token is alive.
"""

from __future__ import annotations

import asyncio
import base64
from types import TracebackType
from urllib.parse import unquote_plus

from aiohttp import web

CLIENT_ID = "gateway client"  # the space and the colon below show whether Basic credentials were form-encoded first
CLIENT_SECRET = "s3cret:/+&é-CANARY-client"


class Provider:
    """Grants by refresh token. *fault* is what the next answers are: a status, or "hang", "drop", "garbage", "lost"."""

    def __init__(self) -> None:
        self.exchanges: list[str] = []  # the refresh tokens that were presented
        self.reuses = 0
        self.minted = 0  # tokens given to the client itself
        self.authorizations: list[tuple[str, str]] = []
        self.fault: int | str | None = None
        self.expires_in: object = 3600
        self.rotates = True
        self.scope: str | None = None  # what it says it granted
        self.unusable: dict[str, object] = {}  # replaces members of the answer
        self.gate: asyncio.Event | None = None  # while set and not open, an exchange waits inside the provider
        self.entered = asyncio.Event()
        self._families: dict[str, int] = {}
        self._revoked: set[str] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Provider:
        app = web.Application()
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def grant(self, family: str) -> tuple[str, str]:
        """Begin a grant and return its first access and refresh token."""
        self._families[family] = 0
        return f"AT-{family}-0", f"RT-{family}-0"

    def revoke(self, family: str) -> None:
        """The user takes the grant back."""
        self._revoked.add(family)

    def unrevoke(self, family: str) -> None:
        """It was a mistake."""
        self._revoked.discard(family)

    def rotate_unseen(self, family: str) -> None:
        """Somebody exchanged the newest refresh token and kept the answer to himself."""
        self._families[family] += 1

    def is_alive(self, family: str) -> bool:
        """Whether the grant can still be refreshed."""
        return family not in self._revoked

    def accepts(self, access_token: str) -> bool:
        """Whether *access_token* is the newest of a grant that is alive."""
        _, family, number = access_token.split("-")
        return self.is_alive(family) and self._families.get(family) == int(number)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        self._note_client(request, {name: str(value) for name, value in form.items()})
        refresh_token = str(form.get("refresh_token", ""))
        self.exchanges.append(refresh_token)
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "drop":
            assert request.transport is not None
            request.transport.abort()
        if isinstance(self.fault, int):
            return web.json_response({"error": "server_error"}, status=self.fault, headers={"Retry-After": "7"})
        if self.fault == "garbage":
            return web.Response(text="<html>welcome</html>", content_type="text/html")
        answer = self._rotate(refresh_token) if refresh_token else self._mint()
        if self.fault == "lost":
            assert request.transport is not None
            request.transport.abort()
        return answer

    def _mint(self) -> web.Response:
        self.minted += 1
        return web.json_response(
            {"access_token": f"MT-{self.minted}", "token_type": "bearer", "expires_in": self.expires_in}
        )

    def _rotate(self, refresh_token: str) -> web.Response:
        _, family, number = refresh_token.split("-")
        current = self._families.get(family)
        if current is None or family in self._revoked:
            return web.json_response({"error": "invalid_grant"}, status=400)
        if int(number) != current and self.rotates:
            self.reuses += 1
            self._revoked.add(family)
            return web.json_response({"error": "invalid_grant"}, status=400)
        self._families[family] = current + 1
        answer: dict[str, object] = {"access_token": f"AT-{family}-{current + 1}", "token_type": "bearer"}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        if self.rotates:
            answer["refresh_token"] = f"RT-{family}-{current + 1}"
        if self.scope is not None:
            answer["scope"] = self.scope
        return web.json_response(answer | self.unusable)

    def _note_client(self, request: web.Request, form: dict[str, str]) -> None:
        authorization = request.headers.get("Authorization", "")
        if authorization.startswith("Basic "):
            client, _, secret = base64.b64decode(authorization[6:]).decode().partition(":")
            self.authorizations.append((unquote_plus(client), unquote_plus(secret)))
            assert "client_secret" not in form
        else:
            self.authorizations.append((form.get("client_id", ""), form.get("client_secret", "")))
