"""
The public keys of one issuer: found, fetched, kept fresh, and looked up by key id.

Rules:
1. The address of the set is configured, or discovered; metadata counts only if its `issuer` is the configured one,
   character for character (RFC 8414 section 3.3, OpenID Connect Discovery 4.3).
2. One fetch at a time, whoever asks; bounded in bytes and seconds. A caller who gives up does not end it for others.
3. Keys are asked for again in the background from REFRESH_SECONDS on. From MAX_AGE_SECONDS on a caller waits for the
   answer, so that a key taken out of the set is refused by then (threats B14), unless the issuer failed last time.
4. A failed fetch, or one without a usable key, changes nothing: the old keys serve until MAX_STALE_SECONDS. After that,
   and where there never were keys, the answer is `KeysUnavailable` (503, threats B12), never "your token is wrong".
5. An unknown key id leads to a fetch only if the last attempt, successful or not, is COOLDOWN_SECONDS old (B11). An
   id that a fetch did not bring is remembered for a while. The price: the first tokens of a new key may be refused for
   COOLDOWN_SECONDS if someone has just sent an unknown id.
6. Ages are measured on the monotonic clock (threats B15).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

import structlog
from cachetools import TTLCache

from gateway.access.jwks import VerificationKey, read_key_set
from gateway.access.strict_json import NotStrictJson, load_object
from gateway.errors import KeysUnavailable
from gateway.net.client import OutboundClient, OutboundError

REFRESH_SECONDS = 300.0
MAX_AGE_SECONDS = 600.0
MAX_STALE_SECONDS = 86_400.0
COOLDOWN_SECONDS = 30.0  # as jose and others; threats B11
UNKNOWN_KID_SECONDS = 60.0
MAX_UNKNOWN_KIDS = 1024
FETCH_SECONDS = 5.0  # one request
FLIGHT_SECONDS = 10.0  # discovery and the set together
MAX_SET_BYTES = 262_144
MAX_URL_CHARS = 2048

log = structlog.get_logger()


class KeySet:
    """The keys of *issuer*. Owns at most one task, ended by `close`."""

    def __init__(
        self,
        client: OutboundClient,
        *,
        issuer: str,
        jwks_uri: str | None,
        algorithms: Iterable[str],
        monotonic: Callable[[], float],
    ) -> None:
        self._client = client
        self._issuer = issuer
        self._configured_uri = jwks_uri
        self._discovered_uri: str | None = None
        self._algorithms = frozenset(algorithms)
        self._monotonic = monotonic
        self._keys: tuple[VerificationKey, ...] = ()
        self._by_kid: dict[str, VerificationKey] = {}
        self._unknown: TTLCache[str, None] = TTLCache(MAX_UNKNOWN_KIDS, UNKNOWN_KID_SECONDS, timer=monotonic)
        self._fetched_at = float("-inf")
        self._attempted_at = float("-inf")
        self._failures = 0  # in a row
        self._flight: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"KeySet(issuer={self._issuer!r}, keys={len(self._keys)}, failures={self._failures})"

    async def find(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """
        Return the key with id *kid* for *algorithm*, or None where the issuer has no such key.

        A token without a key id is verified by the only key that fits its algorithm, if there is only one.

        Raises:
            KeysUnavailable: the issuer's keys cannot be had, and no fetched ones are young enough.
        """
        await self._freshen()
        if kid is None or kid in self._by_kid or kid in self._unknown or not self._may_fetch(COOLDOWN_SECONDS):
            return self._look_up(kid, algorithm)
        await self._fetch()
        if kid not in self._by_kid and not self._failures:
            self._unknown[kid] = None
        return self._look_up(kid, algorithm)

    def known(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return what `find` would, without asking anybody; None also where the keys are due to be asked for."""
        return self._look_up(kid, algorithm) if self._monotonic() - self._fetched_at < REFRESH_SECONDS else None

    def _look_up(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        if kid is None:
            fitting = [key for key in self._keys if algorithm in key.algorithms]
            return fitting[0] if len(fitting) == 1 else None
        key = self._by_kid.get(kid)
        return key if key is not None and algorithm in key.algorithms else None

    def public_keys(self) -> list[dict[str, str]]:
        """Return the usable keys as JWKs to publish (/v2/keys), each with `kid`, `use`, `alg`."""
        return [dict(key.jwk) for key in self._keys if key.kid is not None]

    async def load(self) -> None:
        """Fetch the keys unless they are fresh (at start, and before they are published). Raises nothing."""
        with suppress(KeysUnavailable):
            await self._freshen()

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._flight is not None:
            self._flight.cancel()
            with suppress(asyncio.CancelledError):
                await self._flight

    async def _freshen(self) -> None:
        age = self._monotonic() - self._fetched_at
        if age < REFRESH_SECONDS:
            return
        if age >= MAX_STALE_SECONDS:
            # Nothing to serve meanwhile: tried sooner again, after 1, 2, 4, … seconds.
            if self._may_fetch(self._pause()):
                await self._fetch()
            if self._monotonic() - self._fetched_at >= MAX_STALE_SECONDS:
                left = self._attempted_at + self._pause() - self._monotonic()
                raise KeysUnavailable(retry_after=max(1, math.ceil(left)))
            return
        if not self._may_fetch(COOLDOWN_SECONDS):
            return
        flight = self._begin()
        if age >= MAX_AGE_SECONDS and not self._failures:
            await asyncio.shield(flight)

    def _pause(self) -> float:
        """How many seconds lie between two attempts while there is nothing to serve."""
        return min(2.0 ** min(self._failures, 5), COOLDOWN_SECONDS)

    def _may_fetch(self, pause_seconds: float) -> bool:
        """Whether to join the fetch under way, or to begin one because the last attempt is long enough ago."""
        return self._flight is not None or self._monotonic() - self._attempted_at >= pause_seconds

    def _begin(self) -> asyncio.Task[None]:
        if self._flight is None:
            self._attempted_at = self._monotonic()
            self._flight = asyncio.create_task(self._fly(), name="key-set")
        return self._flight

    async def _fetch(self) -> None:
        # Shielded: the fetch belongs to everyone who waits for it, not to the first who came.
        await asyncio.shield(self._begin())

    async def _fly(self) -> None:
        try:
            async with asyncio.timeout(FLIGHT_SECONDS):
                keys = await self._download()
        except (OutboundError, NotStrictJson, ValueError, TimeoutError) as exc:
            self._failures += 1
            self._discovered_uri = None  # the set may have moved
            reason = exc.reason if isinstance(exc, OutboundError) else type(exc).__name__
            log.warning("key_set_failed", issuer=self._issuer, reason=reason, failures=self._failures)
        else:
            # A key that stays is the object that it was: what was verified by it need not be verified again.
            self._keys = keys = tuple(next((old for old in self._keys if old == key), key) for key in keys)
            self._by_kid = {key.kid: key for key in keys if key.kid is not None}
            self._fetched_at = self._attempted_at
            self._failures = 0
        finally:
            self._flight = None

    async def _download(self) -> tuple[VerificationKey, ...]:
        uri = self._configured_uri or self._discovered_uri
        if uri is None:
            uri = self._discovered_uri = await self._discover()
        keys = read_key_set(await self._get(uri), self._algorithms)
        if not keys:
            raise ValueError("no usable key")
        return keys

    async def _discover(self) -> str:
        failure: Exception = ValueError("no metadata")
        for url in metadata_urls(self._issuer):
            try:
                metadata = await self._get(url)
            except (OutboundError, ValueError) as exc:
                failure = exc
                continue
            uri = metadata.get("jwks_uri")
            if metadata.get("issuer") != self._issuer:
                failure = ValueError("metadata of another issuer")
            elif not isinstance(uri, str) or len(uri) > MAX_URL_CHARS:
                failure = ValueError("metadata without jwks_uri")
            else:
                return uri
        raise failure

    async def _get(self, url: str) -> dict[str, object]:
        answer = await self._client.request(
            "GET", url, headers={"Accept": "application/json"}, timeout_seconds=FETCH_SECONDS, max_bytes=MAX_SET_BYTES
        )
        if answer.status != 200:
            raise ValueError("not answered with 200")
        return load_object(answer.body)


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """
    Return the addresses of *issuer*'s metadata in the order in which they are tried.

    OpenID Connect Discovery section 4 appends to the issuer's path; RFC 8414 section 3.1 puts its part before the path,
    and section 5 tells of servers that append it.
    """
    base = issuer.rstrip("/")
    parts = urlsplit(base)
    urls = [f"{base}/.well-known/openid-configuration"]
    if parts.path:
        urls.append(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}")
    urls.append(f"{base}/.well-known/oauth-authorization-server")
    return tuple(urls)
