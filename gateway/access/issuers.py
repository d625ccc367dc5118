"""
Who a JSON Web Token says is calling: its signature, and the order of the checks.

Rules:
1. The token's `iss`, compared as a whole, picks the issuer; the issuer's configuration, never the token, says which
   algorithms and keys count (RFC 8725 sections 3.1, 3.2, 3.8).
2. What needs no key is checked first, so that a stranger's junk costs neither a fetch nor a signature.
3. Every failure is the same `CallerUnauthenticated`; why goes to a debug line that has nothing of the token (threats
   B18). A valid token without the required scope is told so (403), and keys that cannot be had are `KeysUnavailable`.
4. With several issuers one at most has no user prefix, and no prefix begins with another: the same `sub` of two issuers
   is never one user (DESIGN section 7).

`tokens.py` takes the token apart, `claims.py` judges what it says, `keysets.py` has the keys. PyJWT verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jwt
import structlog

from gateway.access.claims import ClaimNames, Issuer, check_claims, read_caller
from gateway.access.jwks import ALGORITHMS, VerificationKey
from gateway.access.keysets import KeySet
from gateway.access.tokens import TokenRefused, UnverifiedToken, take_apart
from gateway.errors import CallerUnauthenticated
from gateway.models import Caller
from gateway.net.client import OutboundClient

__all__ = ["ClaimNames", "Issuer", "Issuers"]

log = structlog.get_logger()


class Proof(NamedTuple):
    """By which key of its issuer's a token was verified: *kid* and *algorithm* are the token's."""

    keys: KeySet
    kid: str | None
    algorithm: str
    key: VerificationKey

    def holds(self) -> bool:
        """Whether the issuer, heard of lately, still has that key. Then the token's signature is still good."""
        return self.keys.known(self.kid, self.algorithm) is self.key


class Proven(NamedTuple):
    """The *caller* whom a token names, and why that is believed."""

    caller: Caller
    proof: Proof


class Issuers:
    """
    The issuers whose tokens are accepted. *clock* gives POSIX seconds (for claims), *monotonic* ages key sets.

    Raises:
        ValueError: an algorithm is not an asymmetric signature's; two issuers have one name; rule 4.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        client: OutboundClient,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        entries = tuple(issuers)
        _check_algorithms(entries)
        _check_namespace(entries)
        self._clock = clock
        self._issuers = {entry.issuer: entry for entry in entries}
        self._key_sets = {
            entry.issuer: KeySet(
                client,
                issuer=entry.issuer,
                jwks_uri=entry.jwks_uri,
                algorithms=entry.algorithms,
                monotonic=monotonic,
            )
            for entry in entries
        }
        self._foreign_prefixes = {
            entry.issuer: tuple(other.user_prefix for other in entries if other is not entry and other.user_prefix)
            for entry in entries
        }

    async def verify(self, token: str, *, requires_scope: bool = True) -> Proven:
        """
        Return the caller whom *token* names, and by which key that was verified.

        Raises:
            CallerUnauthenticated: it is not a valid access token of a configured issuer for this gateway.
            CallerScopeMissing: it is, and lacks the issuer's required scope, where *requires_scope*.
            KeysUnavailable: the issuer's keys cannot be had at the moment.
        """
        try:
            return await self._verify(token, requires_scope=requires_scope)
        except TokenRefused as exc:
            log.debug("token_refused", reason=str(exc))
        # Outside of the handler, so that no traceback can carry the reason along.
        raise CallerUnauthenticated

    async def load(self) -> None:
        """Fetch every issuer's keys ahead of the first call. An issuer that fails is asked again when it is needed."""
        for key_set in self._key_sets.values():
            await key_set.load()

    async def public_keys(self) -> list[dict[str, str]]:
        """Return the keys of all issuers as JWKs with `kid`, `use` and `alg` (contract row 24)."""
        await self.load()
        return [key for key_set in self._key_sets.values() for key in key_set.public_keys()]

    async def close(self) -> None:
        """End the fetches that are under way. The client is closed by whoever made it."""
        for key_set in self._key_sets.values():
            await key_set.close()

    async def _verify(self, token: str, *, requires_scope: bool) -> Proven:
        parts = take_apart(token)
        name = parts.claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise TokenRefused("another issuer")
        if parts.algorithm not in issuer.algorithms:
            raise TokenRefused("another algorithm")
        check_claims(parts, issuer, now=self._clock())
        keys = self._key_sets[issuer.issuer]
        key = await keys.find(parts.kid, parts.algorithm)
        if key is None:
            raise TokenRefused("no such key")
        if not _is_signed(parts, key):
            raise TokenRefused("wrong signature")
        foreign_prefixes = self._foreign_prefixes[issuer.issuer]
        caller = read_caller(parts, issuer, foreign_prefixes=foreign_prefixes, requires_scope=requires_scope)
        return Proven(caller, Proof(keys, parts.kid, parts.algorithm, key))


def _is_signed(token: UnverifiedToken, key: VerificationKey) -> bool:
    algorithm = jwt.get_algorithm_by_name(token.algorithm)
    try:
        return bool(algorithm.verify(token.signed, key.key, token.signature))
    except (jwt.PyJWTError, ValueError, TypeError):  # PyJWT raises TypeError where algorithm and key type disagree
        return False


def _check_algorithms(issuers: tuple[Issuer, ...]) -> None:
    for entry in issuers:
        unknown = set(entry.algorithms) - ALGORITHMS
        if unknown or not entry.algorithms:
            raise ValueError(f"{entry.issuer}: algorithms: expected some of {', '.join(sorted(ALGORITHMS))}")


def _check_namespace(issuers: tuple[Issuer, ...]) -> None:
    names = [entry.issuer for entry in issuers]
    prefixes = [entry.user_prefix for entry in issuers]
    if len(set(names)) != len(names):
        raise ValueError("expected each issuer once")
    if prefixes.count("") > 1:
        raise ValueError("user_prefix: needed on all but one of several issuers")
    named = [prefix for prefix in prefixes if prefix]
    for index, prefix in enumerate(named):
        others = named[:index] + named[index + 1 :]
        if any(other.startswith(prefix) for other in others):
            raise ValueError(f'user_prefix: expected none that begins with another, got "{prefix}" before another')
