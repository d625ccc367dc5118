"""
The links that users connect an account with: who may have one made, for what, and where it leads in the end.

Rules (threats.md J5, J12):
1. Who may begin: a management key for anybody; a user's credential for that user; both within the tenants that the
   credential names. Whether policy lets somebody connect a whole tenant, the token API has asked before; a refusal on
   the data path offers no link for a tenant.
2. After it, the browser goes only where an operator said: the connection's `defaultRedirectUrl`, or one of the list,
   compared exactly. Without either it stays on our own page.
3. Addresses are made of the configured public URL, or of the connection's `callbackDomain`; never of a request's Host.
4. Where a token lacks scopes, the link asks for those of a grant by which the same call finds a better token: on a
   route with `scopes` exactly these (no wider grant is ever found there, so without them no link helps), else what the
   token in use was asked for, and the missing ones. The newest grant is the one in use then (`tokens.py`, rule 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cachetools import LRUCache

from gateway.access.names import MAX_ACCOUNT_CHARS, MAX_NAME_CHARS, is_name
from gateway.errors import ConnectionUnknown, RateLimited, SubjectNotAllowed
from gateway.models import Caller, TokenKey
from gateway.vault.attempts import Attempts, NewAttempt, Status, TooManyAttempts
from gateway.vault.authorization import SECRET
from gateway.vault.client_auth import text_of
from gateway.vault.connection import Connection, is_scope
from gateway.vault.connections import Connections
from gateway.vault.discovery import is_endpoint
from gateway.vault.grants import grant_of
from gateway.vault.tokens import Tokens

CALLBACK_PATH = "/v1/outbound/oauth/callback"
CONNECT_PATH = "/connect/"
MAX_SCOPES = 200
REUSE_SECONDS = 300.0  # a link that still lives this long is offered again instead of another one


class ConnectInvalid(Exception):
    """An account cannot be connected like this; the message says what to change, for whoever asked for the link."""


@dataclass(frozen=True, slots=True)
class ConnectLink:
    """What to show a user. *id* is public; *url* and *wait_url* hold a secret: who has them can begin, or wait."""

    id: str
    url: str
    wait_url: str
    expires_at: float

    def __repr__(self) -> str:
        return f"ConnectLink(id={self.id!r}, expires_at={self.expires_at!r})"


class Links:
    """Makes links, and tells how they stand."""

    def __init__(
        self,
        attempts: Attempts,
        connections: Connections,
        tokens: Tokens,
        *,
        base_url: Callable[[], str],
        redirect_urls: Iterable[str],
        allow_http: bool,
        clock: Callable[[], float],
        began: Callable[[], None] = lambda: None,
    ) -> None:
        """*began* is called with each new attempt, and waits for nothing."""
        self._attempts = attempts
        self._connections = connections
        self._tokens = tokens
        self._base_url = base_url
        self._redirect_urls = frozenset(redirect_urls)
        self._allow_http = allow_http
        self._clock = clock
        self._began = began
        self._links: LRUCache[tuple[TokenKey, tuple[str, ...], str], ConnectLink] = LRUCache(maxsize=1000)

    async def start(
        self,
        connection_id: str,
        *,
        user: str | None,
        started_by: Caller,
        tenant: str | None = None,
        tenant_level: bool = False,
        account: str | None = None,
        scopes: Iterable[str] | None = None,
        redirect_url: str | None = None,
    ) -> ConnectLink:
        """
        Begin an attempt, and return the link that *user* must open.

        *tenant_level*: the grant becomes the tenant's own token, *user* is who consents. Empty *scopes*: the
        connection's default scopes.

        Raises:
            ConnectionUnknown: no such connection.
            ConnectInvalid: it cannot be connected in a browser, or an argument is not valid.
            SubjectNotAllowed: rule 1.
            RateLimited: too many attempts are under way.
        """
        _check_starter(started_by, user=user, tenant=tenant, tenant_level=tenant_level)
        connection = await self._connections.load(connection_id)
        if connection is None:
            raise ConnectionUnknown(connection=connection_id)
        self._check_connectable(connection)
        wanted = tuple(sorted(set(scopes or connection.default_scopes)))
        _check_arguments(user=user, tenant=tenant, tenant_level=tenant_level, account=account, scopes=wanted)
        new = NewAttempt(
            connection=connection_id,
            user="" if tenant_level else user or "",
            tenant=tenant or "",
            account=account or "",
            granted_by=user or started_by.client or "",
            scopes=wanted,
            redirect_url=self._redirect_target(connection, redirect_url),
        )
        try:
            attempt, secret = await self._attempts.begin(new)
        except TooManyAttempts as exc:
            raise RateLimited("Too many accounts are being connected at the moment.", retry_after=60) from exc
        self._began()
        url = f"{_origin_of(self.callback_url(connection))}{CONNECT_PATH}{secret}"
        return ConnectLink(attempt.id, url, f"{url}/wait", attempt.expires_at)

    async def link_for(
        self, key: TokenKey, caller: Caller, *, missing_scopes: tuple[str, ...] | None = None
    ) -> ConnectLink | None:
        """
        Return a link for whoever met a refusal for want of the token of *key*; None where a browser cannot help.

        *missing_scopes* are those that the token lacks (rule 4), empty where it was not said which; None: there is no
        token. The same link for the same wish and caller while nobody has begun with it: a caller that tries again and
        again makes no new ones.
        """
        if key.user is None and caller.kind != "management":
            return None
        scopes = key.scopes or ()
        if missing_scopes is not None:
            wider = await self._wider(key, missing_scopes)
            if wider is None:
                return None
            scopes = wider
        who = (key, scopes, f"{caller.kind}:{caller.user}:{caller.client}:{caller.key_id}")
        known = self._links.get(who)
        if known is not None and known.expires_at - self._clock() > REUSE_SECONDS:
            attempt = await self._attempts.get(known.id)
            if attempt is not None and attempt.status == "open" and not attempt.browser_digest:
                return known
        try:
            link = await self.start(
                key.connection,
                user=key.user,
                tenant=key.tenant,
                tenant_level=key.user is None,
                account=key.account,
                scopes=scopes,
                started_by=caller,
            )
        except (ConnectInvalid, ConnectionUnknown, SubjectNotAllowed, RateLimited):
            return None
        self._links[who] = link
        return link

    async def _wider(self, key: TokenKey, missing: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the scopes to ask for where the token of *key* lacks *missing* (rule 4); None: asking helps nobody."""
        stored = await self._tokens.find(key)
        connection = await self._connections.load(key.connection)
        if connection is None or (key.scopes is not None and not set(missing) <= set(key.scopes)):
            return None
        asked = key.scopes or (stored.requested_scopes if stored is not None else ()) or connection.default_scopes
        # An API key has the rights that it was made with: another one is entered in the place of this one.
        wanted = set(asked) if connection.kind == "apikey" else {*asked, *missing}
        is_granted = stored is not None and wanted <= set(stored.granted_scopes)
        return None if is_granted and not missing else tuple(sorted(wanted))

    async def status(self, attempt_id: str) -> Status:
        """Return where the attempt of this public id stands; "expired" where it is not known any more."""
        attempt = await self._attempts.get(attempt_id)
        return "expired" if attempt is None else attempt.status

    async def status_of_link(self, secret: str) -> Status:
        """Return the same for the secret part of a link."""
        attempt = await self._attempts.of_link(secret) if SECRET.match(secret) else None
        return "expired" if attempt is None else attempt.status

    @staticmethod
    def _check_connectable(connection: Connection) -> None:
        if connection.kind == "apikey":
            return
        if grant_of(connection) != "authorization_code":
            raise ConnectInvalid("This connection gets its tokens without a browser.")
        if connection.awaits_registration:
            raise ConnectInvalid("The provider has not registered this connection's client yet: the log says why.")
        if not connection.client_id:
            raise ConnectInvalid("This connection has no client id yet.")
        if not text_of(connection, "discoveryUrl") and not (connection.authorization_url and connection.token_url):
            raise ConnectInvalid("This connection has no authorization URL or no token URL.")

    def callback_url(self, connection: Connection) -> str:
        """
        Return the redirect URI that the connection's client must have at its provider.

        It is at the connection's `callbackDomain`, else at our public URL.
        """
        return callback_url(connection, self._base_url())

    def _redirect_target(self, connection: Connection, wanted: str | None) -> str:
        """
        Return where the browser goes in the end, "" for our own page (rule 2).

        Raises:
            ConnectInvalid: *wanted* is not on the list.
        """
        default = text_of(connection, "defaultRedirectUrl")
        target = wanted or default
        if not target:
            return ""
        if target != default and target not in self._redirect_urls:
            raise ConnectInvalid("redirectUrl: expected the connection's defaultRedirectUrl, or one that is configured")
        if not is_endpoint(target.partition("#")[0], allow_http=self._allow_http):
            raise ConnectInvalid("redirectUrl: expected an absolute https URL")
        return target


def callback_url(connection: Connection, base_url: str) -> str:
    """Return the connection's redirect URI where the traffic listener's public URL is *base_url*."""
    domain = text_of(connection, "callbackDomain").rstrip("/")
    base = base_url if not domain else domain if "://" in domain else f"https://{domain}"
    return f"{base}{CALLBACK_PATH}"


def _check_starter(caller: Caller, *, user: str | None, tenant: str | None, tenant_level: bool) -> None:
    """Raise SubjectNotAllowed where *caller* may not begin this (rule 1)."""
    if caller.kind == "management":
        return
    if tenant is not None and tenant not in caller.tenants:
        raise SubjectNotAllowed
    if not tenant_level and (caller.user is None or user != caller.user):
        raise SubjectNotAllowed


def _check_arguments(
    *, user: str | None, tenant: str | None, tenant_level: bool, account: str | None, scopes: tuple[str, ...]
) -> None:
    if tenant_level and not tenant:
        raise ConnectInvalid("tenantId: expected the tenant that gets the token")
    if not tenant_level and not user:
        raise ConnectInvalid("user: expected the user who gets the token")
    for name, value, longest in (
        ("user", user, MAX_NAME_CHARS),
        ("tenantId", tenant, MAX_NAME_CHARS),
        ("externalIdentifier", account, MAX_ACCOUNT_CHARS),
    ):
        if value is not None and not is_name(value, longest):
            raise ConnectInvalid(f"{name}: expected 1 to {longest} characters without control characters")
    if len(scopes) > MAX_SCOPES or not all(map(is_scope, scopes)):
        raise ConnectInvalid("scopes: expected a list of scopes without spaces")


def _origin_of(url: str) -> str:
    return url.removesuffix(CALLBACK_PATH)
