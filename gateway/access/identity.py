"""
Who is calling, from a credential; and for whose connection token the call asks.

Rules:
1. A credential is a JWT of a configured issuer, an agent key, or a management key; it stands where the route says, and
   nowhere else (DESIGN section 9, "On the wire").
2. Each door has an `Identity` of its own, since not every door takes management keys. They share issuers and keys.
3. A verified caller is believed until min(exp, CACHE_SECONDS). A JWT is believed for another such time without its
   signature being checked again, where its issuer, heard of lately, still has the very key by which it was verified:
   nothing else of it can change. Failures are not remembered, so strangers fill nothing. Nor is a caller who was not
   asked for the required scope: whom this remembers has it.
4. A key's caller is believed only while the change feed is live, and forgotten when the feed names the key: a revoked
   key is refused within a second, in every process. Where the feed is behind, the database is asked each time.
5. Only a management key names its user and tenant. Others act for themselves, and may choose one of their own tenants.
   A route's account is the operator's word: a caller cannot choose another (threats C15, D3).
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable

from gateway.access.issuers import Issuers, Proof
from gateway.access.keys import PREFIXES, TOPIC, KeyRing, looks_like_key
from gateway.access.names import MAX_ACCOUNT_CHARS, is_name
from gateway.errors import CallerUnauthenticated, SubjectNotAllowed, SubjectRequired, TenantRequired
from gateway.models import Caller, CredentialPlace, Route, Subject
from gateway.store.changes import ChangeFeed

CACHE_SECONDS = 60.0  # how long a withdrawn JWT may still be believed (threats B16)
MAX_CACHED = 20_000  # callers; about 2 KB each with a JWT as the key
MAX_CREDENTIAL_CHARS = 8192

_MANAGEMENT = f"{PREFIXES['management']}_"


def parse_credential(value: str, place: CredentialPlace, project: str) -> str:
    """
    Return the credential in the field value *value*, which was found at *place*.

    In Authorization: "Bearer <credential>", "token <credential>" or "Bearer <project>:<credential>", schemes in any
    letter case; with Basic the password, in UTF-8 (RFC 7617); in a field of the route's own the whole value.

    Raises:
        CallerUnauthenticated: another scheme or project, or characters that no credential has.
    """
    if len(value) > 2 * MAX_CREDENTIAL_CHARS:
        raise CallerUnauthenticated
    if place.kind == "header":
        credential = value
    else:
        scheme, _, rest = value.partition(" ")
        scheme = scheme.lower()
        rest = rest.lstrip(" ")  # RFC 9110 section 11.4: one or more spaces
        if place.kind == "basic" and scheme == "basic":
            credential = _password(rest)
        elif place.kind == "authorization" and scheme == "bearer":
            before, colon, after = rest.partition(":")
            if colon and before != project:
                raise CallerUnauthenticated
            credential = after if colon else before
        elif place.kind == "authorization" and scheme == "token":
            credential = rest
        else:
            raise CallerUnauthenticated
    # Only what cannot belong to any credential; each kind's own form is checked when it is verified. On the hot path:
    # 0.4 microseconds for a JWT of 900 characters; a regular expression over it would add 1.7.
    if not credential or not credential.isascii() or " " in credential or ":" in credential:
        raise CallerUnauthenticated
    if len(credential) > MAX_CREDENTIAL_CHARS:
        raise CallerUnauthenticated
    return credential


class Verified:
    """
    The *caller* that a credential was verified to be a short while ago: believed until *until*, in monotonic seconds,
    a key's while *feed* is live as well. It ends with its place in `Identity`, so whoever holds it need not look there.
    """

    __slots__ = ("caller", "feed", "proof", "until")

    def __init__(self, caller: Caller, feed: ChangeFeed | None, proof: Proof | None = None) -> None:
        self.caller = caller
        self.feed = feed
        self.proof = proof  # a JWT's
        self.until = float("-inf")

    def is_believed(self, now: float) -> bool:
        """Whether the caller may be believed at *now*, in monotonic seconds; else the credential is verified anew."""
        return now < self.until and (self.feed is None or now < self.feed.live_until)

    def end(self) -> None:
        """Believe it no more."""
        self.until = float("-inf")


class Identity:
    """
    Who calls at one door. *accepts_management* says whether the door takes management keys.

    *clock* gives POSIX seconds, for expiry; *monotonic* ages what is remembered.
    """

    def __init__(
        self,
        issuers: Issuers,
        keyring: KeyRing,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        accepts_management: bool,
    ) -> None:
        self._issuers = issuers
        self._keyring = keyring
        self._feed = keyring.feed
        self._clock = clock
        self._monotonic = monotonic
        self._accepts_management = accepts_management
        self._callers: OrderedDict[str, Verified] = OrderedDict()  # by their credentials
        self._credentials: dict[str, str] = {}  # key id → credential
        self._changes = 0  # of keys, heard so far
        self._feed.subscribe(TOPIC, self._forget)
        self._feed.on_gap(self._forget_keys)

    def cached(self, credential: str) -> Verified | None:
        """Return the caller whom *credential* was verified to be a short while ago, or None: then `verify`."""
        # 0.2 microseconds, and 0.4 more to hash the 900 characters of a JWT just read; a TTLCache costs 1.0. Get it
        # again: timeit on this method with a token of tests/access/idp.py.
        verified = self._callers.get(credential)
        if verified is None:
            return None
        now = self._monotonic()
        if verified.is_believed(now) or self._prolong(credential, verified, now):
            return verified
        return None

    def _prolong(self, credential: str, verified: Verified, now: float) -> bool:
        """Believe a JWT again, by rule 3, and return whether it is. 1 microsecond, where to verify it takes 62."""
        if verified.proof is None or not verified.proof.holds():
            return False
        seconds = self._seconds(verified.caller)
        if seconds <= 0:
            return False
        verified.until = now + seconds
        self._callers.move_to_end(credential)
        return True

    def _seconds(self, caller: Caller) -> float:
        """Return for how long *caller* may be believed from now on."""
        return CACHE_SECONDS if caller.expires_at is None else min(CACHE_SECONDS, caller.expires_at - self._clock())

    async def identify(self, credential: str, *, requires_scope: bool = True) -> Caller:
        """Return who *credential* says is calling. Raises as `verify`."""
        return (await self.verify(credential, requires_scope=requires_scope)).caller

    async def verify(self, credential: str, *, requires_scope: bool = True) -> Verified:
        """
        Return who *credential* says is calling, and until when that may be believed.

        *requires_scope* False: a JWT need not have its issuer's required scope, for what no scope is needed for.

        Raises:
            CallerUnauthenticated: nobody, or a management key at a door that takes none.
            CallerScopeMissing: a valid JWT without the scope that its issuer must give.
            KeysUnavailable: it cannot be checked at the moment.
        """
        known = self.cached(credential)
        if known is not None:
            return known
        if not looks_like_key(credential):
            caller, proof = await self._issuers.verify(credential, requires_scope=requires_scope)
            verified = Verified(caller, None, proof)
            if requires_scope:
                self._remember(credential, verified)
            return verified
        if credential.startswith(_MANAGEMENT) and not self._accepts_management:
            raise CallerUnauthenticated
        changes = self._changes
        verified = Verified(await self._keyring.verify(credential), self._feed)
        # A change heard while the database answered may have been this key's revocation.
        if changes == self._changes:
            self._remember(credential, verified)
        return verified

    def _remember(self, credential: str, verified: Verified) -> None:
        seconds, caller = self._seconds(verified.caller), verified.caller
        if seconds <= 0:
            return
        # The oldest entry goes: with one lifetime for all, that is also the one that would have ended first.
        before = self._callers.pop(credential, None)
        if before is not None:
            before.end()
        while len(self._callers) >= MAX_CACHED:
            _, oldest = self._callers.popitem(last=False)
            oldest.end()
            if oldest.caller.key_id is not None:
                self._credentials.pop(oldest.caller.key_id, None)
        verified.until = self._monotonic() + seconds
        self._callers[credential] = verified
        if caller.key_id is not None:
            self._credentials[caller.key_id] = credential

    def _forget(self, key_id: str) -> None:
        self._changes += 1
        credential = self._credentials.pop(key_id, None)
        if credential is not None:
            verified = self._callers.pop(credential, None)
            if verified is not None:
                verified.end()

    def _forget_keys(self) -> None:
        for key_id in tuple(self._credentials):
            self._forget(key_id)
        self._changes += 1  # also where none was remembered: one may be being verified


def choose_subject(
    caller: Caller, route: Route, *, user: str | None, tenant: str | None, account: str | None
) -> Subject:
    """
    Return whose connection token *caller* gets on *route*.

    *user*, *tenant* and *account* are the fields Gateway-User, Gateway-Tenant and Gateway-Account, None where absent.
    The route's `subject` alone says which of user and tenant the token belongs to: a tenant chosen on a route that acts
    for users changes nothing.

    Raises:
        SubjectNotAllowed: a field names a user, tenant or account that this caller may not choose.
        SubjectRequired: the route acts for a user, and there is none.
        TenantRequired: the route acts within a tenant, and none is chosen.
    """
    if user is None and tenant is None and account is None and route.subject == "user":
        # The usual call, straight through: 0.3 microseconds.
        if caller.user is None:
            raise SubjectRequired
        return Subject(caller.user, None, route.account)
    chosen_user = _choose_user(caller, user)
    chosen_tenant = _choose_tenant(caller, tenant)
    chosen_account = _choose_account(route, account)
    if route.subject == "tenant":
        if chosen_tenant is None:
            raise TenantRequired
        return Subject(None, chosen_tenant, chosen_account)
    if chosen_user is None:
        raise SubjectRequired
    if route.subject == "user":
        return Subject(chosen_user, None, chosen_account)
    if chosen_tenant is None:
        raise TenantRequired
    return Subject(chosen_user, chosen_tenant, chosen_account)


def _choose_user(caller: Caller, user: str | None) -> str | None:
    if caller.kind != "management":
        if user is not None:
            raise SubjectNotAllowed("Only a management key may name a user in Gateway-User.")
        return caller.user
    return _field(user)


def _choose_tenant(caller: Caller, tenant: str | None) -> str | None:
    if caller.kind == "management":
        return _field(tenant)
    if tenant is None:
        return caller.tenant
    if tenant not in caller.tenants:
        raise SubjectNotAllowed
    return tenant


def _choose_account(route: Route, account: str | None) -> str | None:
    chosen = _field(account, MAX_ACCOUNT_CHARS)
    if chosen is None:
        return route.account
    if route.account not in (None, chosen):
        raise SubjectNotAllowed("This route acts for one account. Leave the field Gateway-Account out.")
    return chosen


def _field(value: str | None, max_chars: int = 512) -> str | None:
    """Return the name in a Gateway field; an empty field counts as absent."""
    if not value:
        return None
    if not is_name(value, max_chars):
        raise SubjectNotAllowed
    return value


def _password(text: str) -> str:
    try:
        decoded = base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as exc:
        raise CallerUnauthenticated from exc
    _, colon, password = decoded.partition(":")
    if not colon:
        raise CallerUnauthenticated
    return password
