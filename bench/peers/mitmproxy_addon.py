"""
The add-on that makes mitmproxy do the gateway's work; `bench.peers.mitmproxy` runs it, in mitmproxy's environment.

It reads `options.json` in the directory it is started in: token, issuer, audience, jwks_file, cached_callers, record.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
from mitmproxy import http  # type: ignore[import-not-found]  # has an environment of its own


class Gateway:
    """Verify, inject, record."""

    def __init__(self, options: dict[str, str]) -> None:
        self.keys = jwt.PyJWKSet.from_json(Path(options["jwks_file"]).read_text())
        self.issuer, self.audience = options["issuer"], options["audience"]
        self.injected = f"Bearer {options['token']}"
        self.cached_callers = int(options["cached_callers"])
        self.expiries: dict[str, float] = {}  # verified tokens, the oldest first
        self.record = Path(options["record"]).open("a", buffering=1)  # noqa: SIM115  # as long as the process

    def is_verified(self, authorization: str) -> bool:
        """Say whether *authorization* holds a JWT that the issuer signed for this audience."""
        credential = authorization.removeprefix("Bearer ")
        if self.expiries.get(credential, 0.0) > time.time():
            return True
        try:
            key = self.keys[jwt.get_unverified_header(credential)["kid"]]
            claims = jwt.decode(
                credential,
                key,
                algorithms=["RS256"],
                audience=self.audience,
                issuer=self.issuer,
                options={"require": ["exp"]},
            )
        except (jwt.PyJWTError, KeyError):
            return False
        if len(self.expiries) >= self.cached_callers:
            del self.expiries[next(iter(self.expiries))]
        self.expiries[credential] = claims["exp"]
        return True

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Refuse, or put the token in the place of the JWT."""
        request = flow.request
        if not self.is_verified(request.headers.get("authorization", "")):
            flow.response = http.Response.make(401)
            return
        request.headers["authorization"] = self.injected
        request.path = request.path.removeprefix("/api")
        request.stream = True

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let the body pass as it comes."""
        flow.response.stream = True

    def response(self, flow: http.HTTPFlow) -> None:
        """Write the line of a request that was answered."""
        self.write(flow, status=flow.response.status_code)

    def error(self, flow: http.HTTPFlow) -> None:
        """Write the line of a request whose caller or upstream went away."""
        self.write(flow, status=0)

    def write(self, flow: http.HTTPFlow, *, status: int) -> None:
        """Write the line of *flow*."""
        request, seconds = flow.request, time.time() - flow.request.timestamp_start
        caller = flow.client_conn.peername[0]
        line = f'{caller} [{time.time():.3f}] "{request.method} {request.path}" status={status} {seconds:.6f}\n'
        self.record.write(line)


addons = [Gateway(json.loads(Path("options.json").read_text()))]
