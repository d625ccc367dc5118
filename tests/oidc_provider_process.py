"""
npm's oidc-provider as a real process: the strict OAuth provider of the tests (tests/oidc_provider/server.mjs).

1. It rotates refresh tokens at each use and revokes the whole grant when a spent one comes back.
2. The process belongs to one `async with` and is ended by its own id; it also ends when this process dies.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urljoin, urlsplit

import aiohttp

from tests.tools import OIDC_PROVIDER, require_oidc_provider

START_SECONDS = 30.0
STOP_SECONDS = 5.0
MAX_REDIRECTS = 10  # log in, consent, and the provider's own steps between them


@dataclass(slots=True)
class OidcProviderProcess:
    """
    A provider with one confidential client (client_secret_basic) and whatever users `authorize` names.

    *redirect_uris* are the client's, compared exactly; *scopes* are those that may be asked for beside openid and
    offline_access. The attributes from *issuer* on are there once it was entered with `async with`.
    """

    client_id: str = "gateway"
    client_secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    redirect_uris: Sequence[str] = ("http://127.0.0.1/callback",)
    scopes: Sequence[str] = ("contacts.read", "contacts.write")
    access_token_seconds: int = 3600
    issuer: str = field(default="", init=False)
    _process: Process | None = field(default=None, init=False, repr=False)
    _session: aiohttp.ClientSession | None = field(default=None, init=False, repr=False)

    async def __aenter__(self) -> Self:
        node = require_oidc_provider()
        self._process = await asyncio.create_subprocess_exec(
            str(node), "server.mjs", cwd=OIDC_PROVIDER, stdin=PIPE, stdout=PIPE, env=self._environment()
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await self._process.stdout.readline()
            self.issuer = json.loads(line)["issuer"]
        except BaseException:
            await self._stop()
            raise
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        await self._stop()

    @property
    def authorization_url(self) -> str:
        return f"{self.issuer}/auth"

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/token"

    @property
    def revocation_url(self) -> str:
        return f"{self.issuer}/token/revocation"

    @property
    def me_url(self) -> str:
        """A protected resource: 200 {sub, scope} for a live access token, 401 with a challenge for any other."""
        return f"{self.issuer}/me"

    async def authorize(self, user: str, scopes: Sequence[str] = ()) -> dict[str, Any]:
        """
        Return the token response after *user* has logged in and consented: the code flow with PKCE, every step real.

        openid and offline_access are asked for beside *scopes*.
        """
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uris[0],
            "scope": " ".join(["openid", "offline_access", *scopes]),
            "prompt": "consent",
            "state": secrets.token_hex(8),
            "login_hint": user,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        answer = await self.browse(self.authorization_url, asked)
        if "code" not in answer or answer["state"] != asked["state"]:
            raise AssertionError(f"the provider did not grant: {answer}")
        grant = {"grant_type": "authorization_code", "code": answer["code"], "code_verifier": verifier}
        return await self.exchange({**grant, "redirect_uri": self.redirect_uris[0]})

    async def browse(self, url: str, query: Mapping[str, str] | None = None) -> dict[str, str]:
        """
        Follow the provider's redirects from *url* as a browser with cookies does, up to the client's redirect URI.

        Returns the parameters that arrive there; it is not called itself.
        """
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            for _ in range(MAX_REDIRECTS):
                async with browser.get(url, params=query, allow_redirects=False) as response:
                    if response.status not in (302, 303):
                        raise AssertionError(f"{response.status} from {response.url.path}: {await response.text()}")
                    url, query = urljoin(str(response.url), response.headers["Location"]), None
                if url.startswith(tuple(self.redirect_uris)):
                    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        raise AssertionError(f"more than {MAX_REDIRECTS} redirects")

    async def exchange(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Return what the token endpoint answers to *form* sent by the client: a token response or an error."""
        credential = aiohttp.encode_basic_auth(self.client_id, self.client_secret)
        async with self._client.post(self.token_url, data=form, headers={"Authorization": credential}) as response:
            return dict(await response.json())

    async def refresh(self, refresh_token: str) -> dict[str, Any]:
        """Return the provider's answer to a refresh with *refresh_token*: a token response or an error."""
        return await self.exchange({"grant_type": "refresh_token", "refresh_token": refresh_token})

    async def status_of(self, access_token: str) -> int:
        """Return the status that the protected resource gives to *access_token*: 200 or 401."""
        async with self._client.get(self.me_url, headers={"Authorization": f"Bearer {access_token}"}) as response:
            return response.status

    async def revoke_access_token(self, access_token: str) -> None:
        """Kill *access_token* at once; its grant and refresh token live on, and its expiry still lies ahead."""
        url = f"{self.issuer}/test/revoke-access-token"
        async with self._client.post(url, data={"token": access_token}) as response:
            assert response.status == 200, "the provider does not know this access token"

    async def stats(self) -> dict[str, Any]:
        """
        Return what the provider has seen so far.

        `exchanges`: successful ones by grant type; `refusals`: by OAuth error; `reuse_detected`: how often a spent
        refresh token came back; `grants`: [{id, user, alive}]; `me`: {accepted, rejected}.
        """
        async with self._client.get(f"{self.issuer}/test/stats") as response:
            return dict(await response.json())

    @property
    def _client(self) -> aiohttp.ClientSession:
        assert self._session is not None, "enter the provider with `async with` first"
        return self._session

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "CLIENT_ID": self.client_id,
            "CLIENT_SECRET": self.client_secret,
            "REDIRECT_URIS": json.dumps(list(self.redirect_uris)),
            "SCOPES": json.dumps(list(self.scopes)),
            "ACCESS_TOKEN_SECONDS": str(self.access_token_seconds),
            "NODE_NO_WARNINGS": "1",
        }

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
