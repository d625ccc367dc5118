"""An authorization server on a real socket that answers as a test wants: metadata, tokens, registration, revocation."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from tests.vault.connecting import serve


@dataclass
class Authority:
    """What it answers (the fields), and what it has seen."""

    url: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)  # added to, or (None) taken from, the usual
    sub: str = "account-1"
    id_token: dict[str, Any] | None = field(default_factory=dict)  # claims beside the usual; None: no id token
    token: dict[str, Any] = field(default_factory=dict)  # members of the token answer beside the usual
    token_status: int = 200
    registration: dict[str, Any] = field(default_factory=dict)
    registration_status: int = 201
    userinfo: dict[str, Any] | None = None
    well_known: str = "/.well-known/openid-configuration"
    iss: str | None = ""  # "": its own
    asked: list[dict[str, str]] = field(default_factory=list)
    exchanged: list[dict[str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    revoked: list[dict[str, str]] = field(default_factory=list)
    registered: list[dict[str, Any]] = field(default_factory=list)
    fetched: int = 0
    entered: asyncio.Event = field(default_factory=asyncio.Event)  # set when a code arrives
    revocation_status: int = 200
    revocation_gate: asyncio.Event | None = None
    gate: asyncio.Event | None = None  # where there is one, tokens are issued at once and told when it is set
    _issued: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        match request.path:
            case self.well_known:
                self.fetched += 1
                return web.json_response(self.document())
            case "/authorize":
                return self._authorize(request)
            case "/token":
                return await self._token(request)
            case "/register":
                self.registered.append(await request.json())
                return web.json_response(self._registered(), status=self.registration_status)
            case "/revoke":
                self.revoked.append(dict(parse_qsl(await request.text())))
                if self.revocation_gate is not None:
                    await self.revocation_gate.wait()
                return web.Response(status=self.revocation_status)
            case "/userinfo" if self.userinfo is not None:
                return web.json_response(self.userinfo)
            case _:
                return web.Response(status=404)

    def document(self) -> dict[str, Any]:
        """Return the metadata as it is served."""
        usual = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
            "registration_endpoint": f"{self.url}/register",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata
        return {name: value for name, value in usual.items() if value is not None}

    def _authorize(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        answer = {"code": "CODE", "state": request.query["state"]}
        if self.iss is not None:
            answer["iss"] = self.iss or self.url
        raise web.HTTPFound(f"{request.query['redirect_uri']}?{urlencode(answer)}")

    async def _token(self, request: web.Request) -> web.Response:
        self._issued += 1
        self.entered.set()
        text = await request.text()
        is_json = request.content_type == "application/json"
        form: dict[str, str] = json.loads(text) if is_json else dict(parse_qsl(text))
        self.exchanged.append(form)
        self.authorizations.append(request.headers.get("Authorization", ""))
        answer: dict[str, Any] = {
            "access_token": f"AT-{self._issued}",
            "refresh_token": f"RT-{self._issued}",
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        if self.id_token is not None:
            answer["id_token"] = unsigned({"iss": self.url, "aud": "client", "sub": self.sub} | self.id_token)
        content = {name: value for name, value in (answer | self.token).items() if value is not None}
        if self.gate is not None:
            await self.gate.wait()
        return web.json_response(content, status=self.token_status)

    def _registered(self) -> dict[str, Any]:
        asked = self.registered[-1]
        answer = asked | {"client_id": "made-id", "client_secret": "made-secret"} | self.registration
        return {name: value for name, value in answer.items() if value is not None}


def unsigned(claims: dict[str, Any]) -> str:
    """Return *claims* in the form of a JWT; what stands for a signature is none."""
    parts = [json.dumps({"alg": "RS256"}), json.dumps(claims), "none"]
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


@asynccontextmanager
async def authority(**settings: Any) -> AsyncIterator[Authority]:
    """Serve an authority."""
    made = Authority(**settings)
    runner, made.url = await serve(made.handle)
    try:
        yield made
    finally:
        await runner.cleanup()
